"""`gemel ledger plan`: what a study would cost each patient, or which noise a budget needs, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.core.error_catalogue import ExitCode
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.core.mechanism import Charge, Mechanism
    from gemel.core.study import Study
    from gemel.core.synthesis_plan import SynthesisPlan
    from gemel.privacy.ledger import LedgerEntry

_SOLVING = "Without a study: "


StudyFile = Annotated[
    Path | None, typer.Argument(metavar="STUDY", help="A study, signed or plain JSON.", show_default=False)
]
Against = Annotated[
    Path | None,
    typer.Argument(
        metavar="HOME_OR_LEDGER",
        help="Whose budget: a node's home, or an exported ledger.",
        show_default=False,
    ),
]
Epsilon = Annotated[
    float | None, typer.Option(metavar="E", help=f"{_SOLVING}budget of each patient, all included.")
]
Rounds = Annotated[int | None, typer.Option(metavar="R", help=f"{_SOLVING}rounds of training.")]
LocalSteps = Annotated[
    int | None, typer.Option(metavar="S", help=f"{_SOLVING}steps of a hospital in each round.")
]
Cohort = Annotated[
    int | None, typer.Option(metavar="ABOUT_N", help=f"{_SOLVING}about how many patients a hospital has.")
]
Batch = Annotated[
    int | None, typer.Option(metavar="B", help="Patients sampled for a step; all, unless given.")
]
Delta = Annotated[
    float | None, typer.Option(metavar="D", help="Instead of a tenth of one over the cohort's order.")
]
Cap = Annotated[
    float | None,
    typer.Option(metavar="C", help="A hospital's cap, nothing spent so far: what would be left."),
]


def plan(
    study: StudyFile = None,
    against: Against = None,
    *,
    epsilon: Epsilon = None,
    rounds: Rounds = None,
    local_steps: LocalSteps = None,
    cohort: Cohort = None,
    batch: Batch = None,
    delta: Delta = None,
    cap: Cap = None,
    programme: Annotated[
        str, typer.Option(metavar="P", help="The installed programme that says how many tables are released.")
    ] = "fatty_liver",
    metrics_tables: Annotated[
        int | None,
        typer.Option(min=1, help="Tables that the evaluation releases.", show_default="one an endpoint"),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Say what a study would cost each patient, and leave; or solve for the noise that a budget needs.

    With STUDY: its price, task by task, and against a node's home or an exported ledger what is spent before and
    after. Exit code 3 says that it would be refused. Nothing is written, nothing runs.

    Without: noise, sample rate and delta for --epsilon, --rounds, --local-steps and --cohort.
    """
    solving = {"--epsilon": epsilon, "--rounds": rounds, "--local-steps": local_steps, "--cohort": cohort}
    with failures(output):
        if study is not None:
            if unwanted := [name for name, value in solving.items() if value is not None]:
                raise typer.BadParameter(f"{', '.join(unwanted)} cannot change a study that is written.")
            _price(study, against, output)
            return
        if epsilon is None or rounds is None or local_steps is None or cohort is None:
            missing = ", ".join(name for name, value in solving.items() if value is None)
            raise typer.BadParameter(f"Give a STUDY, or {missing} too.")
        metrics, synthesis = _released(programme)
        request = {
            "epsilon": epsilon,
            "rounds": rounds,
            "local_steps": local_steps,
            "cohort": cohort,
            "batch": batch,
            "delta": delta,
            "metrics_tables": metrics_tables or metrics,
            "synthesis": synthesis,
        }
        _solve(request, cap=cap, output=output)


def _released(name: str) -> tuple[int, SynthesisPlan]:
    """How many tables a programme's evaluation takes, and what its virtual cohorts do. Raises GEM104."""
    from gemel.cli.data import find_programme
    from gemel.synthetic.domain import domain_of
    from gemel.synthetic.protocol import synthesis_plan
    from gemel.twins.metrics import metric_tables

    programme = find_programme(name)
    return len(metric_tables(programme)), synthesis_plan(domain_of(programme))


# --- a study that is written -------------------------------------------------------------------------


def _price(path: Path, against: Path | None, output: Format) -> None:
    from gemel.core.mechanism import mechanisms_by_patient
    from gemel.privacy.accounting import epsilon

    study = read_study(path)
    charges, delta = study.charges(), study.privacy.delta
    by_share = {
        share.value: epsilon(paid, delta=delta) for share, paid in mechanisms_by_patient(charges).items()
    }
    result: dict[str, Any] = {
        "study": {"id": study.study_id, "sha256": study.sha256, "programme": study.programme},
        "delta": delta,
        "epsilon": max(by_share.values()),
        "epsilon_stated": study.privacy.epsilon,
        "epsilon_by_share": by_share,
        "tasks": _by_task(charges, delta=delta),
        "budget": None if against is None else _against(study, against),
    }
    refusals = _refusals(result)
    result["admitted"] = not refusals
    emit(result, output, render=lambda console: _render_price(console, result))
    _refuse(refusals)


def read_study(path: Path) -> Study:
    """A signed study, verified, or the plain document. Raises GEM106, GEM101 to GEM103."""
    from gemel.cli.verify import read_document
    from gemel.core.study import parse_study

    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise GemelError("GEM106", f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise GemelError("GEM106", f"{path} holds no study: {error}.") from error
    if not (isinstance(content, dict) and "signatures" in content):
        return parse_study(content)
    document = read_document(path)
    if document.kind != "study":
        raise GemelError("GEM106", f"{path} holds a {document.kind}, not a study.")
    return parse_study(document.payload)


def _by_task(charges: Sequence[Charge], *, delta: float) -> list[dict[str, Any]]:
    """Each task, equal ones in a row together, and what a patient of either half has paid after it."""
    from gemel.core.mechanism import mechanisms_by_patient
    from gemel.privacy.accounting import epsilon

    rows: list[dict[str, Any]] = []
    so_far: list[Charge] = []
    for (share, mechanisms), group in groupby(charges, key=lambda charge: (charge.share, charge.mechanisms)):
        together = list(group)
        so_far += together
        tasks = [charge.task for charge in together]
        rows.append(
            {
                "tasks": tasks[0] if len(tasks) == 1 else f"{tasks[0]} … {tasks[-1]}",
                "charged": len(tasks),
                "share": share.value,
                "releases": [_release(mechanism) for mechanism in mechanisms],
                "epsilon_after": {
                    half.value: epsilon(paid, delta=delta)
                    for half, paid in mechanisms_by_patient(so_far).items()
                },
            }
        )
    return rows


def _release(mechanism: Mechanism) -> str:
    sampled = "" if mechanism.sample_rate == 1 else f" q={mechanism.sample_rate:.4g}"
    return f"{mechanism.count} x {mechanism.kind} z={mechanism.noise_multiplier:.6g}{sampled}"


def _against(study: Study, source: Path) -> dict[str, Any]:
    """What is spent before and after, by the patient who would have spent most."""
    from gemel.cli.ledger import load

    document, entries, inside = load(source)
    payload = document.payload
    budget: dict[str, Any] = {
        "site": payload["site"],
        "epsilon_cap": payload["epsilon_cap"],
        "delta": payload["delta"],
        "reserved": any(entry.charges and entry.study_sha256 == study.sha256 for entry in entries),
    }
    if inside is not None and budget["reserved"]:
        spent = inside.epsilon_of_worst_person
        quoted = {"of": "the patient who has spent most", "epsilon_before": spent, "epsilon_after": spent}
    else:
        quoted = (inside is not None and _quote_of_people(study, source)) or _quote_of_anybody(
            () if budget["reserved"] else study.charges(), entries, delta=payload["delta"]
        )
    left = payload["epsilon_cap"] - quoted["epsilon_after"]
    return {
        **budget,
        **quoted,
        "epsilon_left": round(max(0.0, left), 6),
        "within_cap": left >= 0,
        "delta_allowed": study.privacy.delta <= payload["delta"],
    }


def _quote_of_people(study: Study, source: Path) -> dict[str, Any] | None:
    """By the people of the home's own data; None when there are no data for the programme yet."""
    from gemel.cli.ledger import open_home
    from gemel.client_node import patients
    from gemel.twins.installed import find

    home = open_home(source if source.is_dir() else source.parent)
    try:
        with home.locked():
            people = patients.load(home, find(study.programme, study.programme_version)).people()
    except GemelError as error:
        say(f"The home's own patients cannot be read ({error.code} {error.message}).")
        return None
    with home.open_ledger() as ledger:
        quote = ledger.quote(study.charges(), people)
    return {
        "of": "the patient who would have spent most",
        "epsilon_before": quote.epsilon_before,
        "epsilon_after": quote.epsilon_after,
    }


def _quote_of_anybody(
    charges: Sequence[Charge], entries: Sequence[LedgerEntry], *, delta: float
) -> dict[str, Any]:
    """By a patient who was in everything: an export does not say who was in what."""
    from gemel.privacy.accounting import price
    from gemel.privacy.ledger import book_of

    standing = book_of(entries).all_standing()
    before, after = (price(paid, delta=delta) for paid in (standing, (*standing, *charges)))
    return {"of": "a patient who was in everything", "epsilon_before": before, "epsilon_after": after}


def _refusals(result: dict[str, Any]) -> list[str]:
    """Why a node would refuse the study, in its own codes."""
    found, budget = list[str](), result["budget"]
    if result["epsilon"] > result["epsilon_stated"]:
        found.append(
            f"GEM305 The study states epsilon {result['epsilon_stated']}; it costs {result['epsilon']}."
        )
    if budget is not None and not budget["delta_allowed"]:
        found.append(f"GEM301 The study's delta {result['delta']} exceeds the hospital's {budget['delta']}.")
    if budget is not None and not budget["within_cap"]:
        found.append(
            f"GEM301 A patient's epsilon would be {budget['epsilon_after']}, the cap is {budget['epsilon_cap']}."
        )
    return found


def _refuse(refusals: list[str]) -> None:
    for refusal in refusals:
        say(f"Would be refused: {refusal}")
    if refusals:
        raise typer.Exit(int(ExitCode.REFUSED))


def _render_price(console: Console, result: dict[str, Any]) -> None:
    made = table("Task", "Charged to", "Releases of each", ">epsilon, training", ">epsilon, held out")
    for row in result["tasks"]:
        after = row["epsilon_after"]
        made.add_row(
            row["tasks"],
            row["share"].replace("_", " "),
            "\n".join(row["releases"]),
            f"{after['training']:.6f}",
            f"{after['held_out']:.6f}",
        )
    console.print(made)
    console.print(
        f"{result['study']['id']} would cost each patient epsilon {result['epsilon']} at delta {result['delta']} "
        f"(it states {result['epsilon_stated']}).",
        markup=False,
    )
    if (budget := result["budget"]) is not None:
        console.print(
            f"At {budget['site']}, {budget['of']}, at delta {budget['delta']}: epsilon {budget['epsilon_before']:.6f} before, "
            f"{budget['epsilon_after']:.6f} after, of {budget['epsilon_cap']}; {budget['epsilon_left']:.6f} would be left."
            + (" The study is reserved already: it costs nothing more." if budget["reserved"] else ""),
            markup=False,
        )
    if not result["admitted"]:
        console.print("A node would refuse it.", markup=False)
    elif budget is None:
        console.print("Name a node's home or its exported ledger to see what would be left.", markup=False)
    else:
        console.print("Within the budget.", markup=False)


# --- a budget without a study --------------------------------------------------------------------------


def _solve(request: dict[str, Any], *, cap: float | None, output: Format) -> None:
    from gemel.core.synthesis_plan import ROUNDS
    from gemel.privacy.planning import solve_noise

    answer, synthesis = solve_noise(**request), request["synthesis"]
    noise = answer.noise
    left = None if cap is None else cap - noise.epsilon
    result: dict[str, Any] = {
        **{name: value for name, value in request.items() if name not in ("delta", "batch", "synthesis")},
        "synthesis_tables": [synthesis.mechanism(task, 1.0).count for task in ROUNDS],
        "delta": answer.delta,
        "cohort_order": answer.cohort_order,
        "sample_rate": answer.sample_rate,
        "patients_a_step": round(answer.sample_rate * request["cohort"], 1),
        "noise_multipliers": {
            "training_step": noise.training,
            "count": noise.count,
            "metrics_table": noise.metrics,
            "synthesis": noise.synthesis,
        },
        "epsilon_spent": noise.epsilon,
        "epsilon_cap": cap,
        "epsilon_left": None if left is None else round(max(0.0, left), 6),
        "admitted": left is None or left >= 0,
    }
    emit(result, output, render=lambda console: _render_noise(console, result))
    if not result["admitted"]:
        _refuse([f"GEM301 A patient's epsilon would be {noise.epsilon}, the cap is {cap}."])


def _render_noise(console: Console, result: dict[str, Any]) -> None:
    made = table("Release", ">times", ">noise multiplier")
    noise = result["noise_multipliers"]
    for name, times, of in (
        ("the count", 1, "count"),
        ("a training step", result["rounds"] * result["local_steps"], "training_step"),
        ("a metrics table (held-out patients)", result["metrics_tables"], "metrics_table"),
        ("virtual cohorts, all tables as one", 1, "synthesis"),
    ):
        made.add_row(name, str(times), f"{noise[of]:.6f}")
    console.print(made)
    sampled = (
        "all patients"
        if result["sample_rate"] == 1
        else f"each patient with probability {result['sample_rate']:g}, about {result['patients_a_step']:g}"
    )
    console.print(
        f"At delta {result['delta']:g}, for a hospital of at most {result['cohort_order']:,} patients. "
        f"A step takes {sampled} of {result['cohort']:,}.",
        markup=False,
    )
    console.print(
        f"Accounted with this noise, everything included: epsilon {result['epsilon_spent']} for each patient.",
        markup=False,
    )
    if result["epsilon_left"] is not None and result["admitted"]:
        console.print(
            f"Of a cap of {result['epsilon_cap']} at that delta, with nothing spent before, {result['epsilon_left']:.6f} "
            "would be left.",
            markup=False,
        )
