"""A masked study over a real Flower deployment: TLS, node keys, separate processes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from in_process import signed

from gemel.cli.demo.federation import Federation, run_study, running
from gemel.client_node import masking
from gemel.core.study import AggregationPlan, Masking, Study
from gemel.synthetic.releases import declared_release
from gemel.twins.programmes.fatty_liver import PROGRAMME


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_three_hospitals_run_a_masked_study_over_flower(
    federation: Federation, make_study: Callable[..., Study]
) -> None:
    plan = AggregationPlan(masking=Masking.SECURE)
    study = make_study(quorum=3, round_timeout_s=120.0, aggregation=plan)
    study = msgspec.structs.replace(study, training=msgspec.structs.replace(study.training, rounds=1))
    with running(federation):
        run = run_study(federation, signed(study), watch=lambda _event: None, timeout_s=800.0)
    document = run.certificate
    assert document is not None
    assert document.payload["status"] == "complete"
    declared = declared_release("count", PROGRAMME)
    counts = [masking.kept(home, study.sha256, "count", declared) for home in federation.nodes.values()]
    total = run.load_sum("count", declared)["patients"]
    assert np.array_equal(total, sum(count["patients"] for count in counts if count is not None))
    for task in document.payload["tasks"]:
        assert [c["site"] for c in task["contributions"]] == sorted(study.sites)
