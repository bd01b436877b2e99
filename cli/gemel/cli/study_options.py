"""The options of `gemel study new`, and the study that they ask for."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from gemel.core.study import Study

# As in the core (a test compares them): importing it here would slow down every `--help`.
ALGORITHMS = ("fedavg", "fedprox", "scaffold", "fedadam", "fedyogi")
PERSONALISATIONS = ("none", "local_parameters", "ditto")
RULES = ("mean", "trimmed_mean", "median", "krum", "multi_krum")
CLIPPINGS = ("flat", "per_layer", "adaptive")


def _choice(words: tuple[str, ...], text: str) -> Any:
    return typer.Option(click_type=click.Choice(words), help=text)


Programme = Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="An installed programme.")]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        metavar="SITE[=KEY]",
        help="A hospital, may be repeated; its key is asked of the service when not given. All members when none is named.",
    ),
]
Name = Annotated[str, typer.Option("--id", metavar="NAME", help="The study's name, for people.")]
Words = Annotated[str, typer.Option(help="Instead of the programme's own words.")]
Epsilon = Annotated[
    float, typer.Option(min=0.01, max=100, help="Budget of each patient, everything included.")
]
Delta = Annotated[float, typer.Option(min=1e-12, max=1e-3)]
Rounds = Annotated[int | None, typer.Option(min=1, max=10_000, help="Instead of the programme's usual.")]
Steps = Annotated[int | None, typer.Option(min=1, max=10_000, help="Of a hospital in a round.")]
Rate = Annotated[float | None, typer.Option(metavar="Q", help="Share of the patients in a step.")]
Clip = Annotated[str, _choice(CLIPPINGS, "How a patient's gradient is bounded.")]
Floor = Annotated[int, typer.Option(min=1, help="Patients that a hospital needs at least.")]
Quorum = Annotated[int | None, typer.Option(min=1, help="Hospitals needed; more than half unless given.")]
Timeout = Annotated[float, typer.Option(metavar="S", help="How long a round waits for a hospital.")]
Algorithm = Annotated[str, _choice(ALGORITHMS, "How releases move the global twin.")]
Mu = Annotated[float, typer.Option("--mu", help="FedProx: the pull to the global twin.")]
ServerRate = Annotated[float, typer.Option(help="Of FedAdam, FedYogi and SCAFFOLD.")]
Personal = Annotated[str, _choice(PERSONALISATIONS, "What each hospital keeps for itself.")]
LocalParameters = Annotated[
    list[str] | None,
    typer.Option("--local-parameter", help="A parameter that never leaves; may be repeated."),
]
DittoLambda = Annotated[float, typer.Option("--ditto-lambda", help="Ditto: the pull of personal twins.")]
Enough = Annotated[int, typer.Option(min=0, help="Close a round after so many releases; 0 waits for all.")]
Buffer = Annotated[int, typer.Option(min=0, help="Asynchronous: move the twin at so many updates.")]
Validate = Annotated[int, typer.Option("--validate-every", min=0, help="A charged validation each N rounds.")]
Patience = Annotated[int, typer.Option(min=0, help="End after so many validations without improvement.")]
Masked = Annotated[bool, typer.Option("--masked", help="Secure aggregation: only sums are seen.")]
Threshold = Annotated[int, typer.Option(min=0, help="Hospitals that it takes to lift masks.")]
Rule = Annotated[str, _choice(RULES, "How updates become one; all but the mean need to see each.")]
Malicious = Annotated[int, typer.Option(min=0, help="Poisoned updates that a robust rule withstands.")]
Statistics = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A JSON list of statistics to release.", show_default=False),
]
Cross = Annotated[bool, typer.Option("--cross-site", help="Each hospital's twin validated at each other.")]


def study_of(options: dict[str, Any]) -> Study:
    """The study that the options of `gemel study new` ask for, its noise solved for.

    Raises GEM101, GEM104, GEM305, and GEM907 for sites that are not members.
    """
    from gemel.cli.proposal import propose, usual_training
    from gemel.core.study import Clipping

    programme = _programme(options["programme"])
    changes = {
        name: options[name] for name in ("rounds", "local_steps", "sample_rate") if options[name] is not None
    }
    training, shares = usual_training(programme, **changes, clipping=Clipping(options["clipping"]))
    sites = _sites(options["site"] or [])
    now = dt.datetime.now(dt.UTC)
    return propose(
        programme,
        training,
        shares,
        sites=sites,
        epsilon=options["epsilon"],
        delta=options["delta"],
        minimum_patients=options["minimum_patients"],
        quorum=options["quorum"] or len(sites) // 2 + 1,
        round_timeout_s=options["round_timeout"],
        study_id=options["name"] or f"{programme.name}-{now:%Y%m%dT%H%M%SZ}",
        title=options["title"],
        purpose=options["purpose"],
        options=_further(options),
    )


def _further(options: dict[str, Any]) -> dict[str, Any]:
    from gemel.core.statistic_request import parse_statistics
    from gemel.core.strategy_plan import Algorithm, Pace, Personalisation, StrategyPlan
    from gemel.core.study import AggregationPlan, AggregationRule, Masking

    statistics = options["statistics"]
    return {
        "strategy": StrategyPlan(
            algorithm=Algorithm(options["strategy"]),
            proximal_mu=options["mu"],
            server_learning_rate=options["server_learning_rate"],
            personalisation=Personalisation(options["personal"]),
            local_parameters=tuple(options["local_parameter"] or ()),
            ditto_lambda=options["ditto_lambda"],
        ),
        "pace": Pace(
            enough=options["enough"],
            buffer=options["buffer"],
            validate_every=options["validate_every"],
            patience=options["patience"],
        ),
        "aggregation": AggregationPlan(
            masking=Masking.SECURE if options["masked"] else Masking.NONE,
            threshold=options["threshold"],
            rule=AggregationRule(options["rule"]),
            malicious=options["malicious"],
        ),
        "statistics": () if statistics is None else parse_statistics(_json_of(statistics)),
        "cross_site_validation": options["cross_site"],
    }


def _programme(named: str) -> Any:
    from gemel.twins.installed import find, installed

    name, _, version = named.partition("@")
    if version:
        return find(name, version)
    found = [programme for programme in installed() if programme.name == name]
    if len(found) != 1:
        here = ", ".join(f"{p.name}@{p.version}" for p in installed())
        raise GemelError("GEM104", f"{named!r} names no single installed programme; installed: {here}.")
    return found[0]


def _sites(named: list[str]) -> dict[str, str]:
    """Site -> key: as given, else of the members that the service lists as admitted now."""
    given = dict(site.partition("=")[::2] for site in named)
    if given and all(given.values()):
        return given
    from gemel.cli.service_client import ServiceClient

    with ServiceClient.signed_in() as client:
        admitted = {m["site"]: m["public_key"] for m in client.get("/members") if m["state"] == "admitted"}
    chosen = {site: key or admitted.get(site, "") for site, key in given.items()} or admitted
    if not chosen:
        raise GemelError("GEM921", "No hospital is an admitted member.")
    if missing := [site for site, key in chosen.items() if not key]:
        raise GemelError("GEM921", f"Not an admitted member: {', '.join(missing)}.")
    return chosen


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise GemelError("GEM106", f"{path} cannot be read: {type(error).__name__}.") from error
