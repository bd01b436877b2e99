"""A twin's prediction as ONNX, given out only when it was run and agrees with the twin."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch

from gemel.core.errors import GemelError
from gemel.twins.prediction_graph import PredictionGraph
from gemel.twins.twin import Twin

TOLERANCE = 1e-5
CHECKED_PATIENTS = 256
OPSET = 18
INPUT, OUTPUTS = "values", ("cumulative_incidence", "alive")


def export_onnx(twin: Twin) -> bytes:
    """The prediction as an ONNX model: values float32 (n, d) -> cumulative_incidence (n, times, k), alive (n, times).

    Run by onnxruntime on made-up patients and compared with `twin.predict`: never further away than `TOLERANCE`.
    Raises GEM533 when the exporter is not installed, cannot express the twin, or the model does not agree.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter's own need
    except ImportError as error:
        raise GemelError("GEM533", f"{error.name} is not installed here.") from error
    try:
        content = _exported(PredictionGraph(twin).eval())
    except GemelError:
        raise
    except Exception as error:  # whatever the exporter cannot say in ONNX
        raise GemelError("GEM533", f"The exporter failed: {type(error).__name__}.") from error
    model = onnx.load_model_from_string(content)
    _forget_origin(model)
    onnx.checker.check_model(model)
    told: bytes = model.SerializeToString(deterministic=True)
    _agree(onnxruntime, told, twin)
    return told


def _forget_origin(model: Any) -> None:
    """Remove the exporter's notes: stack traces with this machine's folders and lines of code."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


def made_up_values(twin: Twin, *, patients: int = CHECKED_PATIENTS) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Raw values (n, d) around the public reference, beyond the bounds too, a tenth missing; nobody's."""
    draw = np.random.default_rng(0)
    columns = []
    for feature in twin.programme.columns:
        column = feature.reference_mean + 2 * feature.scale * draw.standard_normal(patients)
        if feature.low == 0 and feature.high == 1:
            column = (draw.random(patients) < 0.5).astype(np.float64)
        column[draw.random(patients) < 0.1] = np.nan
        columns.append(column)
    return np.stack(columns, axis=1).astype(np.float32)


def _exported(graph: PredictionGraph) -> bytes:
    # Two examples: with one, the exporter takes the number of patients for a constant.
    example = torch.zeros(2, len(graph.twin.programme.columns))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("patients")},),
            verbose=False,
        )
    if program is None:
        raise GemelError("GEM533", "The exporter returned nothing.")
    content: bytes = program.model_proto.SerializeToString()
    return content


def _agree(onnxruntime: Any, content: bytes, twin: Twin) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    values = made_up_values(twin)
    for part in (values, values[:1]):
        got = session.run(list(OUTPUTS), {INPUT: part})
        expected = twin.predict(part)
        for array, reference in zip(got, (expected.cumulative_incidence, expected.alive), strict=True):
            worst = float(np.abs(array - reference).max())
            if array.shape != reference.shape or not worst <= TOLERANCE:
                raise GemelError("GEM533", f"The exported model is {worst:g} away from the twin.")
