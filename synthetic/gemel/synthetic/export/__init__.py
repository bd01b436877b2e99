"""Virtual cohorts as files: FHIR R4, OMOP CDM 5.4, Parquet, CSV, with their descriptions, marks and signatures."""

from __future__ import annotations

from gemel.synthetic.export.publisher import Publisher
from gemel.synthetic.export.records import Visits
from gemel.synthetic.export.verification import Attested, verify
from gemel.synthetic.export.writing import USUAL_FORMATS, Format, write

__all__ = ["USUAL_FORMATS", "Attested", "Format", "Publisher", "Visits", "verify", "write"]
