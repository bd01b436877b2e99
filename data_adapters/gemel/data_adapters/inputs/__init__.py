"""What hospitals hold beside FHIR resources: images, wearables, genomes; each read into the same facts."""
