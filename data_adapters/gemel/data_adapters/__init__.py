"""FHIR exports to views, cohorts and data sets, inside the hospital: nothing here talks to the network."""
