"""Virtual cohorts: released marginals and a released twin become FHIR, Parquet and CSV, with a one-page report."""
