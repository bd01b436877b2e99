"""SQL on FHIR: ViewDefinitions, compiled to one SQL tree and run by an engine."""
