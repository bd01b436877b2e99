"""OMOP CDM tables to the same facts as FHIR resources."""
