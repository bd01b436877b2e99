"""`gemel node studies|show|approve|refuse|budget`: what a steward reads, and what a steward says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, plain, table
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.client_node.approvals import Decision

Home = Annotated[Path, typer.Argument(metavar="HOME", help="The node's home.", show_default=False)]
Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="The study's hash, or how it begins.", show_default=False)
]
Key = Annotated[Path, typer.Option("--key", metavar="FILE", help="The steward's own key.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is in the signed decision.")]


def studies(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """List the studies that arrived, and how each stands."""
    with failures(output):
        from gemel.cli.ledger import open_home
        from gemel.client_node.status import studies_of

        node = open_home(home)
        with node.open_ledger() as ledger:
            found = studies_of(node, ledger)

        def render(console: Console) -> None:
            made = table("Study", "Title", "Programme", "Arrived (UTC)", "State", ">epsilon", ">Released")
            for row in found:
                made.add_row(
                    row["study_sha256"][:12],
                    plain(row["title"]),
                    plain(row["programme"]),
                    row["arrived_at"][:16].replace("T", " "),
                    row["state"],
                    f"{row['epsilon']:g}",
                    f"{row['released']} of {row['tasks']}",
                )
            console.print(made)

        emit({"site": node.config.site, "studies": found}, output, render=render)


def show(
    study: Study,
    home: Home,
    *,
    exact: Annotated[
        bool, typer.Option("--exact", help="The exact number of patients; keep it inside the hospital.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what a study computes, on how many people, what leaves, what it costs, and what changed since the last."""
    with failures(output):
        from gemel.cli.ledger import open_home
        from gemel.client_node import approvals
        from gemel.client_node.steward_view import view

        node = open_home(home)
        with node.open_ledger() as ledger:
            told = view(node, ledger, approvals.proposal_like(node, study), exact=exact)
        emit(told, output, render=lambda console: _render(console, told))


def approve(
    study: Study,
    home: Home,
    *,
    key: Key,
    reason: Reason,
    until: Annotated[
        str, typer.Option(metavar="DATE", help="The last day (UTC), or a time with its zone.")
    ] = "",
    runs: Annotated[int, typer.Option(min=0, help="For so many runs; 0 for any number.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Approve a study on the data as they are shown now, as the steward whose key it is."""
    with failures(output):
        from gemel.client_node.approvals import Decision

        _decide(study, home, Decision.APPROVED, key=key, reason=reason, output=output, until=until, runs=runs)


def refuse(
    study: Study, home: Home, *, key: Key, reason: Reason, output: FormatOption = Format.TABLE
) -> None:
    """Refuse a study; it stays refused until a steward decides otherwise."""
    with failures(output):
        from gemel.client_node.approvals import Decision

        _decide(study, home, Decision.REFUSED, key=key, reason=reason, output=output)


def budget(home: Home, *, output: FormatOption = Format.TABLE) -> None:
    """Say what the patient who has spent most has spent, what remains, and what each study holds reserved."""
    with failures(output):
        from gemel.cli.ledger import open_home
        from gemel.client_node.budget import budget_of

        node = open_home(home)
        with node.open_ledger() as ledger:
            told: dict[str, Any] = budget_of(node, ledger)

        def render(console: Console) -> None:
            made = table("Study", "Programme", "Reserved at (UTC)", ">epsilon", ">Begun", ">Never began")
            for row in told["studies"]:
                made.add_row(
                    row["study_sha256"][:12],
                    plain(row["programme"]),
                    row["reserved_at"][:16].replace("T", " "),
                    f"{row['epsilon']:.6f}",
                    str(row["begun"]),
                    str(row["unused"]),
                )
            console.print(made)
            console.print(
                f"{told['site']}: the patient who has spent most has spent epsilon "
                f"{told['epsilon_of_worst_person']:.6f} of {told['epsilon_cap']:g} at delta {told['delta']:g}; "
                f"{told['epsilon_remaining']:.6f} remain. Only for the hospital.",
                markup=False,
            )

        emit(told, output, render=render)


def _decide(
    study: str,
    folder: Path,
    decision: Decision,
    *,
    key: Path,
    reason: str,
    output: Format,
    until: str = "",
    runs: int = 0,
) -> None:
    from gemel.cli.ledger import open_home
    from gemel.client_node import approvals, standing
    from gemel.client_node.permissions import steward_named
    from gemel.core.signing import SigningKey

    if not reason.strip():
        raise GemelError("GEM419", "A decision says why.", hint='Give it with --reason "…".')
    node, signer = open_home(folder), SigningKey.load(key)
    steward = steward_named(node, signer)
    proposal = approvals.proposal_like(node, study)
    made = approvals.decide(
        node, proposal, decision, steward=steward, key=signer, reason=reason, until=until, runs=runs
    )
    missing = standing.lacks_stewards(node, made.study_sha256)
    result = {
        "ok": True,
        "study_sha256": made.study_sha256,
        "decision": made.decision.value,
        "steward": steward,
        "decided_at": made.decided_at,
        "until": made.until,
        "runs": made.runs,
        "approvals_missing": missing,
    }
    more = f" {missing} more steward(s) must approve." if missing else ""
    text = f"{steward}: {made.decision.value} {proposal.study.payload.get('title')!r}.{more}"
    emit(result, output, render=lambda console: console.print(text, markup=False))


def _render(console: Console, told: dict[str, Any]) -> None:
    patients, cost = told["patients"], told["cost"]
    number = f"{patients['number']}" + (
        f" (noise of about {patients['noise']:g})" if patients["noise"] else ""
    )
    signers = ", ".join(f"{s['role']} {s['fingerprint']}" for s in told["signed_by"])
    lines = [
        f"{told['title']}  [{told['state']}]",
        f"  {told['purpose']}",
        f"  study {told['study_sha256']}, signed by {signers}",
        f"  {told['programme']} at {', '.join(told['sites'])}; "
        + (
            "the coordinator sees sums only"
            if told["masked"]
            else "the coordinator sees this hospital's releases"
        ),
        f"  patients here: {number}"
        + ("; THE DATA CHANGED since it was proposed" if told["data_changed"] else ""),
        f"  costs epsilon {cost['epsilon_of_study']:g} at delta {cost['delta']:g}; the patient who has spent most would go "
        f"from {cost['epsilon_of_worst_person_now']:.6f} to {cost['epsilon_of_worst_person_after']:.6f} of "
        f"{cost['epsilon_cap']:g}" + ("" if cost["fits"] else ": IT DOES NOT FIT"),
    ]
    for line in lines:
        console.print(plain(line))
    made = table("Task", ">Times", "What it computes", "On whom", "How", "What leaves", ">Bytes")
    for row in told["tasks"]:
        leaves = row["leaves"]
        shapes = [f"{name} {tuple(spec['shape'])}" for name, spec in list(leaves.items())[:3]]
        more = f" and {len(leaves) - 3} more" if len(leaves) > 3 else ""
        made.add_row(
            plain(row["task"]),
            str(row["times"]),
            plain(row["words"]),
            row["whom"],
            "; ".join(row["how"]),
            plain(", ".join(shapes) + more),
            str(row["bytes"]),
        )
    console.print(made)
    _render_changes(console, told["changes"])
    for decision in told["decisions"]:
        until = f", until {decision['until']}" if decision.get("until") else ""
        runs = f", {decision['runs_started']} of {decision['runs']} runs" if decision.get("runs") else ""
        said = f"{decision['steward']}: {decision['decision']}{until}{runs} ({decision['reason']})"
        console.print(plain(f"{decision['at'][:16]} {said}"))


def _render_changes(console: Console, changes: dict[str, Any]) -> None:
    if not changes:
        console.print("The first study of its kind here.", markup=False)
        return
    console.print(f"Against {changes['since'][:12]} ({changes['that_was']}):", markup=False)
    for name, change in changes["fields"].items():
        console.print(plain(f"  {name}: {change['before']} -> {change['now']}"))
