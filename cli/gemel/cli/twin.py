"""`gemel twin`: one patient, under the twin of a programme: expected, under two plans, and fitted to observations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gemel.twins.definition import TwinDefinition
    from gemel.twins.twin import Twin

app = typer.Typer(
    help="One patient's twin: predict, compare two plans, take in observations.", no_args_is_help=True
)

ProgrammeOption = Annotated[
    str, typer.Option("--programme", metavar="NAME", help="An installed programme.", show_default=False)
]
TwinOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--twin",
        metavar="FILE",
        help="The twin's numbers (twin.safetensors of a run). Without it: the twin at its public start, trained on nobody. "
        "Repeated: further models that could be the twin, for the interval.",
    ),
]
Values = Annotated[
    Path | None,
    typer.Option(
        "--values", metavar="FILE", help="The patient: JSON, feature -> value in its unit; null for unknown."
    ),
]
ExampleOption = Annotated[
    bool, typer.Option("--example", help="The programme's own example, a patient of no hospital.")
]
Plan = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="A treatment plan. Without it: as in the record."),
]

# Of the intervals: this share of what may happen lies in them, as far as they hold it.
LEVEL = 0.9


@dataclass(frozen=True)
class Asked:
    """Whose future is asked for, and of which twin."""

    definition: TwinDefinition
    twin: Twin
    models: tuple[Twin, ...]
    row: NDArray[np.float64]
    record: dict[str, Any]


@app.command(no_args_is_help=True)
def predict(
    *,
    programme: ProgrammeOption,
    twin: TwinOption = None,
    values: Values = None,
    example: ExampleOption = False,
    plan: Plan = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say what the twin expects of one patient: risks, and the course of what is measured, each with its spread.

    Any subset of the features may be known; values outside the public bounds are refused.
    """
    with failures(output):
        from gemel.cli.patient_files import read_plan_file
        from gemel.cli.twin_record import interval_record, prediction_record
        from gemel.cli.twin_render import render_prediction
        from gemel.twins.treatment_plan import NOTHING_CHANGED
        from gemel.twins.uncertainty import interval

        asked = _ask(programme, twin, values, example=example)
        chosen = NOTHING_CHANGED if plan is None else read_plan_file(asked.twin.programme, plan)
        prediction = asked.twin.predict(asked.row, plan=chosen)
        found = interval(asked.twin, asked.row, level=LEVEL, models=asked.models, plan=chosen)
        result = {
            **asked.record,
            "prediction": prediction_record(asked.twin.programme, prediction),
            "interval": interval_record(asked.twin.programme, found),
        }
        emit(result, output, render=lambda console: render_prediction(console, result))


@app.command(no_args_is_help=True)
def simulate(
    *,
    programme: ProgrammeOption,
    twin: TwinOption = None,
    values: Values = None,
    example: ExampleOption = False,
    plan: Plan = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="The plan to compare with. Without it: as in the record."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated futures.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Compare one patient's course under two treatment plans, and say how far the comparison is supported.

    With --example and no --plan: the example's two plans.
    """
    with failures(output):
        from gemel.cli.patient_files import read_plan_file
        from gemel.cli.twin_record import comparison_record
        from gemel.cli.twin_render import render_comparison
        from gemel.twins.treatment_plan import NOTHING_CHANGED

        asked = _ask(programme, twin, values, example=example)
        if plan is None and example:
            plans = asked.definition.example.plan, asked.definition.example.other_plan
        elif plan is None:
            raise typer.BadParameter("Give a --plan, or --example for the example's.")
        else:
            first = read_plan_file(asked.twin.programme, plan)
            other = NOTHING_CHANGED if against is None else read_plan_file(asked.twin.programme, against)
            plans = first, other
        result = {**asked.record, **comparison_record(asked.twin, asked.row, *plans, seed=seed)}
        emit(result, output, render=lambda console: render_comparison(console, result))


@app.command(no_args_is_help=True)
def assimilate(
    *,
    programme: ProgrammeOption,
    twin: TwinOption = None,
    values: Values = None,
    example: ExampleOption = False,
    observations: Annotated[
        Path | None,
        typer.Option(
            "--observations",
            metavar="FILE",
            help='What was observed: JSON, {"name": [[day since the index date, value], …]}.',
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Fit the twin to what was observed of one patient, one observation after the other.

    It costs no privacy and stays where it is made. With --example and no --observations: the example's.
    """
    with failures(output):
        from gemel.cli.patient_files import check_observations, read_observations
        from gemel.cli.twin_record import assimilation_record
        from gemel.cli.twin_render import render_assimilation

        asked = _ask(programme, twin, values, example=example)
        if observations is not None:
            observed = read_observations(observations)
        elif example:
            observed = {name: tuple(pairs) for name, pairs in asked.definition.example.observations.items()}
        else:
            raise typer.BadParameter("Give --observations, or --example for the example's.")
        check_observations(asked.twin, observed)
        result = {**asked.record, **assimilation_record(asked.twin, asked.row, observed)}
        emit(result, output, render=lambda console: render_assimilation(console, result))


def _ask(programme: str, twin: list[Path] | None, values: Path | None, *, example: bool) -> Asked:
    from gemel.cli.patient_files import open_twin, patient_row, read_patient
    from gemel.cli.programme import find_definition
    from gemel.cli.twin_record import patient_record

    if (values is None) is not example:
        raise typer.BadParameter("Give the patient by --values FILE or by --example.")
    definition = find_definition(programme)
    declared = definition.programme
    if not twin:
        say(
            "No --twin: the twin stands at its public start, from literature and round constants. It was trained on nobody."
        )
    row = (
        patient_row(declared, definition.example.values) if values is None else read_patient(declared, values)
    )
    record = {
        "programme": f"{declared.name}@{declared.version}",
        "twin": str(twin[0]) if twin else "public start",
        "patient": patient_record(declared, row),
        "title": definition.example.title if values is None else "",
    }
    models = tuple(open_twin(definition, path) for path in (twin or (None,)))
    return Asked(definition, models[0], models, row, record)
