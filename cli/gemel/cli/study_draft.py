"""`gemel study key|new|show|sign`: a study is written, priced and signed on the scientist's own machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli import study_options as of
from gemel.cli.output import Format, FormatOption, emit, failures, say
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.core.study import Study

Out = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Never over an existing file.")]
KeyFile = Annotated[Path, typer.Option("--key", metavar="FILE", help="The scientist's key.")]


def key(
    *,
    out: Out = Path("scientist.key"),
    local: Annotated[
        bool, typer.Option("--local", help="Do not tell the service; sign in and run it again later.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make the key that you sign studies with, here, and put its public half on record for you at the service.

    An existing key is not replaced: it is put on record. The private half never leaves this machine.
    """
    with failures(output):
        from gemel.core.signing import SigningKey, fingerprint

        made = not out.exists()
        if made:
            SigningKey.generate().save(out)
        held = SigningKey.load(out)
        if not local:
            _put_on_record(held)
        result = {
            "key": str(out),
            "made": made,
            "on_record": not local,
            "public_key": held.public_hex,
            "fingerprint": fingerprint(held.public_hex),
        }
        said = "on record at the service" if not local else "not on record yet"
        emit(
            result,
            output,
            render=lambda console: console.print(
                f"{out}: key {result['fingerprint']}, {said}.", markup=False
            ),
        )


def _put_on_record(held: Any) -> None:
    import msgspec

    from gemel.cli.service_client import ServiceClient
    from gemel.core.signing import sign_document

    with ServiceClient.signed_in() as client:
        me = client.get("/me")
        if held.public_hex in me["keys"]:
            return
        payload = {"schema": "gemel/user-key/1", "user": me["id"], "public_key": held.public_hex}
        proof = sign_document("user-key", payload, held, role="scientist")
        client.post("/me/keys", {"proof": msgspec.to_builtins(proof)})


def new(
    *,
    out: Out = Path("study.json"),
    programme: of.Programme,
    site: of.Sites = None,
    name: of.Name = "",
    title: of.Words = "",
    purpose: of.Words = "",
    epsilon: of.Epsilon = 3.0,
    delta: of.Delta = 1e-5,
    rounds: of.Rounds = None,
    local_steps: of.Steps = None,
    sample_rate: of.Rate = None,
    clipping: of.Clip = "flat",
    minimum_patients: of.Floor = 100,
    quorum: of.Quorum = None,
    round_timeout: of.Timeout = 600.0,
    strategy: of.Algorithm = "fedavg",
    mu: of.Mu = 0.0,
    server_learning_rate: of.ServerRate = 1.0,
    personal: of.Personal = "none",
    local_parameter: of.LocalParameters = None,
    ditto_lambda: of.DittoLambda = 0.0,
    enough: of.Enough = 0,
    buffer: of.Buffer = 0,
    validate_every: of.Validate = 0,
    patience: of.Patience = 0,
    masked: of.Masked = False,
    threshold: of.Threshold = 0,
    rule: of.Rule = "mean",
    malicious: of.Malicious = 0,
    statistics: of.Statistics = None,
    cross_site: of.Cross = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write a study for a programme, with the noise that its budget needs, everything included. Nothing is sent."""
    options = dict(locals())
    with failures(output):
        study = of.study_of(options)
        _write_new(out, json.dumps(study.to_payload(), indent=2, ensure_ascii=False).encode() + b"\n")
        _emit_study(study, output, extra={"file": str(out)})


def show(
    study: Annotated[
        str, typer.Argument(metavar="FILE|ID", help="A study's file, or its id at the service.")
    ],
    *,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show a study: what it computes, where, and what it costs each patient; with an ID also how it stands."""
    with failures(output):
        if Path(study).exists():
            from gemel.cli.ledger_plan import read_study

            _emit_study(read_study(Path(study)), output, extra={"file": study})
            return
        from gemel.cli.service_client import ServiceClient
        from gemel.cli.study_life import find, render_detail
        from gemel.core.study import parse_study

        with ServiceClient.signed_in() as client:
            detail = client.get(f"/studies/{find(client, study)}")
        parsed = parse_study(detail["document"]["payload"])
        result = {**detail, "price": price_of(parsed)}
        emit(result, output, render=lambda console: render_detail(console, result))


def sign(
    draft: Annotated[Path, typer.Argument(metavar="FILE", help="A study's file.", show_default=False)],
    *,
    key_file: KeyFile = Path("scientist.key"),
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="FILE with .signed.json unless given."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Sign a study with your key: from then on its hash is its name, and nothing in it can be changed."""
    with failures(output):
        from gemel.cli.ledger_plan import read_study
        from gemel.cli.proposal import sign as sign_study
        from gemel.core.signing import SigningKey, fingerprint

        study, held = read_study(draft), SigningKey.load(key_file)
        document = sign_study(study, held)
        target = out or draft.with_suffix(".signed.json")
        _write_new(target, document.to_bytes())
        result = {"file": str(target), "study_sha256": study.sha256, "key": fingerprint(held.public_hex)}
        emit(
            result,
            output,
            render=lambda console: console.print(
                f"{target}: {study.study_id}, signed with {result['key']}; it is {study.sha256}.",
                markup=False,
            ),
        )


def price_of(study: Study) -> dict[str, Any]:
    """What the study costs each patient: all of it, and by half."""
    from gemel.core.mechanism import mechanisms_by_patient
    from gemel.privacy.accounting import epsilon

    delta = study.privacy.delta
    paid = mechanisms_by_patient(study.charges())
    halves = {share.value: epsilon(mechanisms, delta=delta) for share, mechanisms in paid.items()}
    return {"epsilon": max(halves.values()), "delta": delta, "by_half": halves}


def _emit_study(study: Study, output: Format, *, extra: dict[str, Any]) -> None:
    result = {**extra, "study": study.to_payload(), "study_sha256": study.sha256, "price": price_of(study)}
    emit(result, output, render=lambda console: render_study(console, study, result["price"]))
    if result["price"]["epsilon"] > study.privacy.epsilon:
        say(f"It states epsilon {study.privacy.epsilon} and costs more: nodes would refuse it (GEM305).")


def render_study(console: Console, study: Study, price: dict[str, Any]) -> None:
    """A study for people."""
    training, strategy, pace = study.training, study.strategy, study.pace
    sites = ", ".join(sorted(study.sites))
    seen = "only sums (masked)" if study.aggregation.masking == "secure" else "each hospital's noised release"
    lines = [
        f"{study.study_id}: {study.title}",
        f"  why        {study.purpose}",
        f"  programme  {study.programme}@{study.programme_version}",
        f"  hospitals  {sites}; {study.quorum} of {len(study.sites)} needed, {study.minimum_patients} patients each",
        f"  training   {training.rounds} rounds of {training.local_steps} steps, {strategy.algorithm}, rule {study.aggregation.rule}",
        f"  pace       {'asynchronous, buffer ' + str(pace.buffer) if pace.buffer else 'rounds'}, "
        f"validation {'every ' + str(pace.validate_every) + ' rounds' if pace.validate_every else 'at the end'}",
        f"  tasks      {len(study.tasks)}: {', '.join(study.tasks[:3])} … {study.tasks[-1]}",
        f"  seen       {seen}",
        f"  price      epsilon {price['epsilon']} at delta {price['delta']:g} for each patient, everything included",
        f"  name       {study.sha256}",
    ]
    console.print("\n".join(lines), markup=False)


def _write_new(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise GemelError("GEM909", f"{path} exists; name another file with -o.") from error
    except OSError as error:
        raise GemelError("GEM106", f"{path} cannot be written: {error.strerror}.") from error
