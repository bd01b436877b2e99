"""`gemel audit`: attacks on this installation, with what each measured beside what is claimed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.core.error_catalogue import ExitCode
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.client_node.home import NodeHome
    from gemel.core.programme import Programme
    from gemel.core.study import Study
    from gemel.privacy.audit.report import AuditReport, Check

ON_WHOM = "On made-up patients and a throwaway node: no hospital's patient is read, no budget is spent."
CAVEAT = "What an attack did not reach is a lower bound on what can be reached, never a proof."
_PATIENTS = 160
# Releases of the rounds of virtual cohorts with one, and as many without; none with --quick.
_CANARIES = 200
USUAL = "fatty_liver"  # the programme that the demo shows


def audit(
    home: Annotated[
        Path | None,
        typer.Argument(metavar="[HOME]", help="A node's home: its studies, its ledger.", show_default=False),
    ] = None,
    *,
    programme: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The programme whose twin is attacked.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute, with fewer tries of each.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as one HTML page.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacker's choices, never of the noise.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Attack what this node promises, and say what held.

    Sensitivity, noise, sampling, accounting, canaries, membership, inversion, differencing, virtual cohorts, replay and
    forgery. On made-up patients: a hospital's budget is never spent, its ledger never written. Exit code 1 says a promise
    is broken.
    """
    with failures(output):
        from gemel.client_node.home import NodeHome

        node = NodeHome.open(home) if home is not None else None
        chosen, study = _choose(node, programme)
        say(f"Attacking {chosen.name} {chosen.version} under {_plan(study)}")
        say(ON_WHOM)
        started = time.monotonic()
        report = _run(node, chosen, study, quick=quick, seed=seed)
        result = _result(report, chosen, study, quick=quick, seed=seed, seconds=time.monotonic() - started)
        if html is not None:
            _write(html, result)
        emit(result, output, render=lambda console: _render(console, report, result))
        if not report.passed:
            _say_broken(report)
            raise typer.Exit(int(ExitCode.FAILED))


def _choose(node: NodeHome | None, name: str | None) -> tuple[Programme, Study]:
    """Programme and study: of the home's newest approval, else the usual study of the named programme, or of the demo's."""
    from gemel.client_node.audit.studies import newest_approved, usual_study
    from gemel.twins.installed import find, installed

    if node is not None and (study := newest_approved(node, programme=name)) is not None:
        return find(study.programme, study.programme_version), study
    programmes = [one for one in installed() if one.name == (name or USUAL)]
    if not programmes:
        raise GemelError("GEM104", f"Programme {name} is not installed here.")
    return programmes[-1], usual_study(programmes[-1])


def _plan(study: Study) -> str:
    plan = study.training
    return (
        f"{study.study_id}: {plan.rounds} x {plan.local_steps} steps, rate {plan.sample_rate:g}, "
        f"z = {plan.noise_multiplier:.4g}, {plan.clipping} clipping at {plan.max_grad_norm:g}; "
        f"epsilon {study.privacy.epsilon:g} at delta {study.privacy.delta:g}"
    )


def _run(node: NodeHome | None, programme: Programme, study: Study, *, quick: bool, seed: int) -> AuditReport:
    from gemel.privacy.audit.report import AuditReport

    checks: list[Check] = []
    for check in _checks(node, programme, study, quick=quick, seed=seed):
        if not checks or checks[-1].attack != check.attack:
            say(f"  {check.attack} ...")
        checks.append(check)
    return AuditReport(f"{programme.name} {programme.version}", tuple(checks))


def _checks(
    node: NodeHome | None, programme: Programme, study: Study, *, quick: bool, seed: int
) -> Iterator[Check]:
    from gemel.client_node.audit import own_ledger
    from gemel.client_node.audit.studies import files_of
    from gemel.client_node.audit.suite import examine as examine_node
    from gemel.client_node.audit.suite import subject_of
    from gemel.privacy.audit.report import Check, carry_out
    from gemel.privacy.audit.suite import FULL, QUICK, examine

    before = files_of(node.folder) if node is not None else {}
    subject = subject_of(programme, study, patients=_PATIENTS, seed=seed)
    yield from examine(subject, study, effort=QUICK if quick else FULL, seed=seed)
    yield from examine_node(programme, study, canaries=0 if quick else _CANARIES, seed=seed)
    if node is not None:
        yield from carry_out(own_ledger.ATTACK, lambda: own_ledger.attack(node))
        changed = [name for name, state in files_of(node.folder).items() if before.get(name) != state]
        yield Check(
            own_ledger.ATTACK,
            "The audit left ledger, outbox, studies and data of this home as they were.",
            "0 files changed",
            f"{len(changed)} changed, of {len(before)}",
            not changed,
        )


def _result(
    report: AuditReport, programme: Programme, study: Study, *, quick: bool, seed: int, seconds: float
) -> dict[str, Any]:
    result = {
        **report.as_dict(),
        "programme": f"{programme.name}@{programme.version}",
        "study": study.study_id,
        "study_sha256": study.sha256 if study.sites else "",
        "epsilon": study.privacy.epsilon,
        "delta": study.privacy.delta,
        "plan": _plan(study),
        "effort": "quick" if quick else "full",
        "seed": seed,
        "seconds": round(seconds, 1),
        "on_whom": ON_WHOM,
        "caveat": CAVEAT,
    }
    if not report.passed:
        result["error"] = _error(report).as_dict()
        result["exit_code"] = int(ExitCode.FAILED)
    return result


def _error(report: AuditReport) -> GemelError:
    try:
        report.require()
    except GemelError as error:
        return error
    raise AssertionError("nothing is broken")


def _say_broken(report: AuditReport) -> None:
    error = _error(report)
    say(f"{error.code} {error.message}")
    say(f"  {error.hint}")


def _outcome(check: Check) -> str:
    if not check.passed:
        return "BROKEN"
    return "control" if check.control else "held"


def _render(console: Console, report: AuditReport, result: dict[str, Any]) -> None:
    made = table("Attack", "What should hold", "Claimed", "Measured", "")
    before = ""
    for check in report.checks:
        style = None if check.passed else "bold red"
        made.add_row(
            check.attack if check.attack != before else "",
            check.promise,
            check.claimed,
            check.measured,
            _outcome(check),
            style=style,
        )
        before = check.attack
    console.print(made)
    held = len(report.checks) - len(report.broken)
    console.print(
        f"{held} of {len(report.checks)} held in {result['seconds']} s ({result['effort']}). {ON_WHOM}",
        markup=False,
    )
    console.print(f"A control is aimed at something unprotected and has to succeed. {CAVEAT}", markup=False)


def _write(path: Path, result: dict[str, Any]) -> None:
    from gemel.cli.audit_page import page

    try:
        path.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise GemelError(
            "GEM106", f"{path} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Report: {path}")
