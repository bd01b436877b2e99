"""Whatever happens to messages and to the coordinator: no update counts twice, the twin is that of a quiet run, the certificate is true."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import Clock, certificate
from light_nodes import Delivery, LightFederation, Schedule, again, at_once, light_federation

from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Request, read_reply, sign_reply
from gemel.core.signing import SigningKey
from gemel.core.strategy_plan import Algorithm, Pace, StrategyPlan
from gemel.server.home import RunFolder
from gemel.server.run_check import check_run

Spoil = Callable[[LightFederation, str, Request, Envelope], Sequence[Delivery]]


@pytest.fixture(autouse=True)
def _no_power_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes die here, machines do not: what was written is there without waiting for the disk."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


class Killed(BaseException):
    """The coordinator's process ends here."""


def _resigned(federation: LightFederation, site: str, reply: Envelope, payload: bytes) -> Sequence[Delivery]:
    """What a node with changed software would release: signed with its own key."""
    told, _ = read_reply(reply.document)
    changed = msgspec.structs.replace(told, payload_sha256=sha256_hex(payload))
    document = sign_reply(changed, federation.nodes[site].key)
    return [(0.01, Envelope(document=document.to_bytes(), payload=payload))]


def _not_a_number(
    federation: LightFederation, site: str, request: Request, reply: Envelope
) -> Sequence[Delivery]:
    if not request.task.startswith("train/"):
        return [(0.01, reply)]
    arrays = federation.nodes[site].arrays(request.task, pack_arrays(_start(federation)))
    spoilt = {name: np.full_like(array, np.nan) for name, array in arrays.items()}
    return _resigned(federation, site, reply, pack_arrays(spoilt))


def _start(federation: LightFederation) -> dict[str, np.ndarray]:
    from gemel.synthetic.releases import starting_model
    from gemel.twins.programmes.fatty_liver import PROGRAMME

    return starting_model(federation.study, PROGRAMME)


def _forged(
    federation: LightFederation, _site: str, _request: Request, reply: Envelope
) -> Sequence[Delivery]:
    document = sign_reply(read_reply(reply.document)[0], SigningKey.generate())
    return [(0.01, Envelope(document=document.to_bytes(), payload=reply.payload))]


def _named_as_another(
    federation: LightFederation, site: str, _request: Request, reply: Envelope
) -> Sequence[Delivery]:
    other = next(name for name in federation.nodes if name != site)
    renamed = msgspec.structs.replace(read_reply(reply.document)[0], site=other)
    document = sign_reply(renamed, federation.nodes[site].key)
    return [(0.01, Envelope(document=document.to_bytes(), payload=reply.payload))]


def _of_another_study(
    federation: LightFederation, site: str, _request: Request, reply: Envelope
) -> Sequence[Delivery]:
    told, _ = read_reply(reply.document)
    other = msgspec.structs.replace(told, study_sha256="ab" * 32, request_sha256="cd" * 32)
    document = sign_reply(other, federation.nodes[site].key)
    return [(0.01, Envelope(document=document.to_bytes(), payload=reply.payload)), (0.02, reply)]


def _replayed(
    federation: LightFederation, site: str, _request: Request, reply: Envelope
) -> Sequence[Delivery]:
    """All that this site ever said, and then what it says now."""
    kept = list(federation.nodes[site].outbox.values())
    return [*((0.01, old) for old in kept if old != reply), (0.02, reply)]


SPOILS: dict[str, Spoil] = {
    "at once": lambda _f, _s, _r, reply: [(0.01, reply)],
    "slow": lambda _f, _s, _r, reply: [(6.0, reply)],
    "too late": lambda _f, _s, _r, reply: [(25.0, reply)],
    "lost": lambda _f, _s, _r, _reply: [],
    "away": lambda _f, _s, _r, _reply: [(0.5, None)],
    "away and back": lambda _f, _s, _r, reply: [(0.5, None), (0.6, None), (3.0, reply)],
    "twice": lambda _f, _s, _r, reply: [(0.01, reply), (0.01, reply), (2.0, reply), (30.0, reply)],
    "forged": _forged,
    "named as another": _named_as_another,
    "of another study": _of_another_study,
    "replayed": _replayed,
    "not a number": _not_a_number,
    "wrong shape": lambda f, s, _r, reply: _resigned(
        f, s, reply, pack_arrays({"weights": np.zeros((3, 3), np.float32)})
    ),
    "oversized": lambda f, s, _r, reply: _resigned(f, s, reply, reply.payload + bytes(1 << 20)),
    "another payload": lambda _f, _s, _r, reply: [
        (0.01, Envelope(document=reply.document, payload=reply.payload + b"x"))
    ],
    "garbage": lambda _f, _s, _r, _reply: [(0.01, Envelope(document=b'{"kind":'))],
}


def _spoilt(federation: LightFederation, spoils: Sequence[str]) -> Schedule:
    """Each request in turn meets the next of the faults; when they are used up all is quiet. Approval is not disturbed."""
    left = iter(spoils)

    def schedule(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if request.task == HELLO:
            return at_once(site, request, reply)
        return SPOILS[next(left, "at once")](federation, site, request, reply)

    return schedule


def _mortal(clock: Clock, kills: Sequence[int]) -> None:
    """End the process at these looks at the clock's hand."""
    sleep, count, at = clock.sleep, itertools.count(1), set(itertools.accumulate(kills))

    def mortal(seconds: float) -> None:
        if next(count) in at:
            raise Killed
        sleep(seconds)

    clock.sleep = mortal  # type: ignore[method-assign]


def _run_to_its_end(federation: LightFederation, spoils: Sequence[str], kills: Sequence[int]) -> RunFolder:
    _mortal(federation.clock, kills)
    schedule = _spoilt(federation, spoils)
    for _ in range(len(kills) + 1):
        coordinator, run, _ = federation.start(schedule)
        try:
            coordinator.run()
        except Killed:
            continue
        except GemelError as error:
            if error.code not in ("GEM501", "GEM514"):
                raise
        return run
    raise AssertionError("it was killed more often than that")


def _check_truth(federation: LightFederation, run: RunFolder) -> None:
    """The certificate holds, and says what the nodes themselves know."""
    document = run.certificate
    assert document is not None
    check_certificate(document)
    check_run(document, run.folder)
    payload = document.payload
    counted = [
        (c["site"], entry["task"], c["request_sha256"])
        for entry in payload["tasks"]
        for c in entry["contributions"]
    ]
    late = [(line["site"], line["task"], line["request_sha256"]) for line in payload["late"]]
    assert len({*counted, *late}) == len(counted) + len(late), "an update is there twice"
    for site, task, request_sha256 in (*counted, *late):
        assert federation.nodes[site].released[task] == request_sha256
    assert (payload["status"] == "complete") == (len(payload["tasks"]) == len(federation.study.tasks))


def _quiet(federation: LightFederation, run: RunFolder, folder: Path) -> RunFolder:
    """An undisturbed run in which just the contributions of another run survive."""
    tasks = certificate(run)["tasks"]
    survivors = {entry["task"]: {c["site"] for c in entry["contributions"]} for entry in tasks}
    quiet = again(federation, folder)

    def schedule(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        alive = request.task == HELLO or site in survivors.get(request.task, ())
        return at_once(site, request, reply) if alive else []

    coordinator, run, _ = quiet.start(schedule)
    try:
        coordinator.run()
    except GemelError as error:
        if error.code != "GEM501":
            raise
    return run


def _twins(run: RunFolder) -> list[str]:
    return [entry["model_sha256"] for entry in certificate(run)["tasks"] if "model_sha256" in entry]


spoils = st.lists(st.sampled_from(list(SPOILS)), max_size=14)
kills = st.lists(st.integers(1, 60), max_size=3)
strategies = st.sampled_from(
    [StrategyPlan(), StrategyPlan(algorithm=Algorithm.SCAFFOLD), StrategyPlan(algorithm=Algorithm.FEDYOGI)]
)


def _try_together(spoils: list[str], kills: list[int], strategy: StrategyPlan, enough: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        federation = light_federation(
            Path(folder) / "spoilt", rounds=2, strategy=strategy, pace=Pace(enough=enough)
        )
        run = _run_to_its_end(federation, spoils, kills)
        _check_truth(federation, run)
        quiet = _quiet(federation, run, Path(folder) / "quiet")
        assert _twins(run) == _twins(quiet)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(spoils, kills, strategies, st.sampled_from([0, 2]))
def test_a_disturbed_run_makes_the_twin_of_a_quiet_one_with_the_same_contributions(
    spoils: list[str], kills: list[int], strategy: StrategyPlan, enough: int
) -> None:
    _try_together(spoils, kills, strategy, enough)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(spoils, kills, strategies, st.sampled_from([0, 2]))
def test_many_disturbed_runs_make_the_twins_of_quiet_ones(
    spoils: list[str], kills: list[int], strategy: StrategyPlan, enough: int
) -> None:
    _try_together(spoils, kills, strategy, enough)


def _try_own_pace(spoils: list[str], kills: list[int], buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        federation = light_federation(Path(folder), rounds=3, pace=Pace(buffer=buffer))
        run = _run_to_its_end(federation, spoils, kills)
        _check_truth(federation, run)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(spoils, kills, st.integers(1, 3))
def test_hospitals_at_their_own_pace_are_each_counted_once_whatever_happens(
    spoils: list[str], kills: list[int], buffer: int
) -> None:
    _try_own_pace(spoils, kills, buffer)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(spoils, kills, st.integers(1, 3))
def test_many_runs_at_hospitals_own_pace(spoils: list[str], kills: list[int], buffer: int) -> None:
    _try_own_pace(spoils, kills, buffer)


@pytest.mark.parametrize("name", sorted(set(SPOILS) - {"at once"}))
def test_one_fault_costs_one_site_one_round_at_most(tmp_path: Path, name: str) -> None:
    federation = light_federation(tmp_path)

    def schedule(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if (site, request.task) != ("site1", "train/2"):
            return at_once(site, request, reply)
        return SPOILS[name](federation, site, request, reply)

    coordinator, run, _ = federation.start(schedule)
    coordinator.run()
    _check_truth(federation, run)
    absent = {
        (entry["task"], line["site"]): line["code"]
        for entry in certificate(run)["tasks"]
        for line in entry["missing"]
    }
    assert set(absent) <= {("train/2", "site1")}
    expected = {
        "slow": None, "away": "GEM502", "away and back": None, "twice": None, "of another study": None, "replayed": None,
        "too late": "GEM502", "lost": "GEM502", "forged": "GEM503", "named as another": "GEM503",
        "not a number": "GEM403", "wrong shape": "GEM403", "oversized": "GEM403", "another payload": "GEM503",
        "garbage": "GEM101",
    }  # fmt: skip
    assert absent.get(("train/2", "site1")) == expected[name]


# --- what a crash leaves --------------------------------------------------------------------------


def test_a_coordinator_killed_at_any_of_its_writes_goes_on_to_the_same_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemel.server import home

    write = home.write_durably
    quiet = light_federation(
        tmp_path / "quiet", rounds=2, strategy=StrategyPlan(algorithm=Algorithm.SCAFFOLD)
    )
    writes = itertools.count()
    monkeypatch.setattr(home, "write_durably", lambda *a, **k: (next(writes), write(*a, **k)))
    coordinator, run, _ = quiet.start()
    coordinator.run()
    expected = _twins(run)
    for kill_at in range(0, next(writes), 4):
        federation = again(quiet, tmp_path / f"killed-{kill_at}")
        monkeypatch.setattr(home, "write_durably", write)
        federation.start()  # puts the study on record
        left = itertools.count()

        def mortal(*args: object, left: object = left, kill_at: int = kill_at, **named: object) -> None:
            if next(left) == kill_at:  # type: ignore[call-overload]
                raise Killed
            write(*args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(home, "write_durably", mortal)
        killed, run = None, None
        while run is None or run.certificate is None:
            try:
                killed, run, _ = federation.start()
                killed.run()
            except Killed:
                continue
        _check_truth(federation, run)
        assert _twins(run) == expected


def test_a_coordinator_restored_from_an_old_backup_is_answered_from_outboxes(tmp_path: Path) -> None:
    import shutil

    federation = light_federation(tmp_path / "one", rounds=3)
    run = federation.start()[1]
    copies: list[Path] = []

    def back_up(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if request.task == "train/2" and not copies:
            copies.append(tmp_path / "backup")
            shutil.copytree(run.folder, copies[0])
        return at_once(site, request, reply)

    federation.start(back_up)[0].run()
    twins = _twins(run)
    shutil.rmtree(run.folder)
    shutil.copytree(copies[0], run.folder)
    federation.start()[0].run()
    assert _twins(run) == twins
    _check_truth(federation, run)


def test_a_restored_coordinator_that_cannot_ask_the_same_again_ends_with_a_clear_code(tmp_path: Path) -> None:
    """A site that was missing from a round the first time answers it now, so later rounds start from another twin."""
    import shutil

    federation = light_federation(tmp_path / "one", rounds=3)
    run = federation.start()[1]

    def lose(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        if request.task == "train/1" and not (tmp_path / "backup").exists():
            shutil.copytree(run.folder, tmp_path / "backup")
        return [] if (site, request.task) == ("site1", "train/1") else at_once(site, request, reply)

    federation.start(lose)[0].run()
    shutil.rmtree(run.folder)
    shutil.copytree(tmp_path / "backup", run.folder)
    with pytest.raises(GemelError, match="^GEM514 "):
        federation.start()[0].run()
    payload = certificate(run)
    assert (payload["status"], payload["code"]) == ("stopped", "GEM514")
    assert {line["code"] for line in payload["stopped_in"]["missing"]} == {"GEM304"}
    _check_truth(federation, run)
