"""How the demo names what a twin is scored on: a phrase for each endpoint, a heading for each score."""

from __future__ import annotations

import re

from gemel.cli.demo.summary import EndpointLine
from gemel.core.programme import Endpoint, Programme
from gemel.twins.scores import horizon_labels, is_risk, target_of


def scored_endpoints(programme: Programme) -> tuple[Endpoint, ...]:
    """The endpoints of a programme, then each outcome that has none: open data may be scored on all."""
    named = {endpoint.outcome for endpoint in programme.endpoints}
    horizons = next((e.horizons_days for e in programme.endpoints if e.outcome), ())
    rest = [outcome for outcome in programme.outcomes if horizons and outcome.name not in named]
    return programme.endpoints + tuple(
        Endpoint(name=outcome.name, title=outcome.title, outcome=outcome.name, horizons_days=horizons)
        for outcome in rest
        if outcome.name not in {endpoint.name for endpoint in programme.endpoints}
    )


def endpoint_line(programme: Programme, endpoint: Endpoint) -> EndpointLine:
    """Title, main score and headings of an endpoint."""
    title = re.sub(r" \([^)]*\)", "", endpoint.title)
    if title[1:2].islower():  # no abbreviation
        title = title[:1].lower() + title[1:]
    if not is_risk(programme, endpoint):
        unit = target_of(programme, endpoint).unit
        figures = {"rmse": f"RMSE, {unit}", "mean_error": f"mean error, {unit}"}
        return EndpointLine(
            title=endpoint.title, phrase=title, main="rmse", figures=figures, higher_is_better=False
        )
    labels = horizon_labels(programme, endpoint)
    figures = {f"auc_{label}": f"AUC {_in_words(label)}" for label in labels}
    last = labels[-1]
    if endpoint.outcome:
        figures["integrated_brier"] = "IBS"
    else:
        figures[f"brier_{last}"] = "Brier"
    # Many a title says itself when.
    told = any(f" {word} " in title for word in ("within", "after", "at"))
    when = "" if told else f" {'within' if endpoint.outcome else 'at'} {_in_words(last)}"
    return EndpointLine(title=endpoint.title, phrase=title + when, main=f"auc_{last}", figures=figures)


def _in_words(label: str) -> str:
    """A horizon in words.

    >>> _in_words("10y"), _in_words("1y"), _in_words("182d")
    ('10 years', '1 year', '182 days')
    """
    number, unit = label[:-1], {"y": "year", "d": "day"}[label[-1]]
    return f"{number} {unit}{'s' * (number != '1')}"
