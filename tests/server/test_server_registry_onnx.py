"""The ONNX form of a twin: run by onnxruntime, it says what the twin says; what cannot be exported is not faked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import numpy as np
import pytest
import torch
from cardiometabolic import PROGRAMME
from torch import Tensor

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.server.registry import onnx_export
from gemel.server.registry.onnx_export import INPUT, OUTPUTS, TOLERANCE, export_onnx, made_up_values
from gemel.twins.hazard import HazardTwin
from gemel.twins.installed import find, installed, make_twin
from gemel.twins.prediction_graph import PredictionGraph
from gemel.twins.twin import Twin


def trained_twin(seed: int = 0, spread: float = 0.3) -> HazardTwin:
    """A twin with arbitrary parameters: at the public start most of them are 0, and a mistake would not show."""
    twin, draw = HazardTwin(PROGRAMME), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=draw)
    return twin


def moved_twin(twin: Twin, seed: int, spread: float = 0.5) -> Twin:
    """The twin with arbitrary parameters."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=draw)
    return twin


def agrees(twin: Twin) -> None:
    values = made_up_values(twin)
    with torch.no_grad():
        incidence, alive = PredictionGraph(twin)(torch.from_numpy(values))
    expected = twin.predict(values)
    assert np.abs(incidence.numpy() - expected.cumulative_incidence).max() < TOLERANCE
    assert np.abs(alive.numpy() - expected.alive).max() < TOLERANCE


@pytest.mark.parametrize("grid", ["years", "days"])
@pytest.mark.parametrize("seed", range(3))
def test_the_graph_says_what_the_twin_says_on_any_grid(grid: str, seed: int) -> None:
    days = msgspec.structs.replace(PROGRAMME, horizon_years=0, grid_days=(7, 14, 182), endpoints=())
    agrees(moved_twin(HazardTwin(PROGRAMME if grid == "years" else days), seed))


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_an_installed_twin_is_said_exactly_or_refused_by_what_it_adds(programme: Programme) -> None:
    twin = moved_twin(make_twin(programme), 0, 0.1)
    with suppress(GemelError):
        PredictionGraph(twin)
        agrees(twin)
        return
    with pytest.raises(GemelError, match=f"GEM533.*{programme.name}"):
        export_onnx(twin)


def test_a_twin_that_adds_to_its_hazards_is_refused_and_told_by_what() -> None:
    class Slower(HazardTwin):
        def covariates(self, batch: Mapping[str, Tensor]) -> Tensor | None:
            return None

    with pytest.raises(GemelError, match="GEM533.*covariates"):
        export_onnx(Slower(PROGRAMME))


@pytest.fixture(scope="module")
def exported() -> bytes:
    """The ONNX form of a trained twin."""
    return export_onnx(trained_twin())


@pytest.mark.parametrize("patients", [1, 2, 7, 300])
def test_onnxruntime_predicts_as_the_twin_for_any_number_of_patients(exported: bytes, patients: int) -> None:
    import onnxruntime

    twin = trained_twin()
    values = made_up_values(twin, patients=patients)
    values[0] = np.nan
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    incidence, alive = session.run(list(OUTPUTS), {INPUT: values})
    expected = twin.predict(values)
    assert np.abs(incidence - expected.cumulative_incidence).max() < TOLERANCE
    assert np.abs(alive - expected.alive).max() < TOLERANCE
    # A comparison of zeros would prove nothing.
    assert incidence.max() > 0.05


def test_an_export_that_disagrees_with_the_twin_is_not_given_out(
    exported: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_exported", lambda _graph: exported)
    with pytest.raises(GemelError, match="GEM533.*away from the twin"):
        export_onnx(trained_twin(seed=1))


def test_a_programme_whose_columns_the_graph_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = trained_twin()
    from gemel.twins import prediction_graph

    monkeypatch.setattr(prediction_graph, "PRODUCT_SCALE", 0.5)
    with pytest.raises(GemelError, match="GEM533"):
        PredictionGraph(twin)


def test_a_twin_with_local_parameters_has_no_onnx_form_and_its_card_says_so(
    make_study: Callable[..., object],
) -> None:
    from gemel.core.arrays import pack_arrays
    from gemel.core.strategy_plan import Personalisation, StrategyPlan
    from gemel.server.registry.registering import _onnx

    plan = StrategyPlan(personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=("level",))
    study = msgspec.structs.replace(make_study(), strategy=plan)
    twin = make_twin(find(study.programme, study.programme_version))
    arrays = {name: a for name, a in twin.to_arrays().items() if name != "level"}
    said, content = _onnx(study, pack_arrays(arrays))
    assert content is None
    assert "stay at hospitals" in said


def test_the_model_carries_no_code_and_no_name_of_this_machine(exported: bytes) -> None:
    import onnx

    model = onnx.load_model_from_string(exported)
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
    assert b"/site-packages/" not in exported
    assert b".py" not in exported, "the exporter's stack traces name this machine's folders"
