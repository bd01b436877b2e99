"""The processes that compute on patients: shut in, bounded, and replaced when they misbehave."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import misbehaving
import msgspec
import numpy as np
import psutil
import pytest

from gemel.cli.demo.federation import Federation, create
from gemel.client_node import patients
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.client_node.worker.limits import Limits, load_limits
from gemel.client_node.worker.pipe import Broken, Outcome, read_outcome, write_bytes, write_outcome
from gemel.client_node.worker.sandbox import shut_in, what_would_hold
from gemel.client_node.worker.workers import Workers
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Reply, Request, Status, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.noise import NoiseSource
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
Ask = Callable[..., dict[str, Any]]
LIMITS = Limits(memory_mb=400, seconds=30.0, studies=2)
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def hospitals(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Homes for all tests here: a nursery takes seconds to import everything."""
    folder = tmp_path_factory.mktemp("hospitals")
    return create(folder / "f", exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)


@pytest.fixture(scope="module")
def home(hospitals: Federation) -> NodeHome:
    return hospitals.nodes["beta"]


@pytest.fixture(scope="module")
def deeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the workers' path whose `sitecustomize` lets tasks misbehave."""
    folder = tmp_path_factory.mktemp("deeds")
    shutil.copy(misbehaving.__file__, folder / "sitecustomize.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield folder


@pytest.fixture(scope="module")
def workers(home: NodeHome, deeds: Path) -> Iterator[Workers]:
    made = Workers(home.folder, LIMITS)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def ask(workers: Workers, home: NodeHome, make_study: MakeStudy) -> Ask:
    """Compute a task in a worker, whatever its name."""
    study, dataset = make_study(), patients.load(home, PROGRAMME)

    def ask(task: str, *, study: Study = study) -> dict[str, Any]:
        return workers.compute(
            task,
            study,
            PROGRAMME,
            dataset=dataset,
            inputs={},
            noisy_patients=100.0,
            noise=NoiseSource.secure(),
        )

    return ask


def _nursery(workers: Workers) -> psutil.Process:
    assert workers._nursery is not None
    return psutil.Process(workers._nursery.pid)


def test_a_task_is_computed_in_a_worker_that_is_kept_for_its_study(ask: Ask, workers: Workers) -> None:
    first = ask("count")["patients"]
    assert first.dtype == np.int64
    before = [p.pid for p in _nursery(workers).children()]
    second = ask("count")["patients"]
    assert [p.pid for p in _nursery(workers).children()] == before
    assert abs(float(first[0] - second[0])) < 200, "two draws of one mechanism"
    confinement = workers.confinement
    assert confinement is not None
    assert (confinement.network, confinement.files) == ("namespace", "landlock")


def test_misbehaving_tasks_get_a_code_and_the_next_task_works(ask: Ask, workers: Workers) -> None:
    for deed, code in (
        ("allocate", "GEM421"),
        ("allocate_in_torch", "GEM421"),
        ("crash", "GEM423"),
        ("garbage", "GEM423"),
        ("no such task", "GEM404"),
    ):
        with pytest.raises(GemelError, match=code):
            ask(deed)
        assert ask("count")["patients"].shape == (1,), deed
    assert workers.replaced >= 2


def test_a_task_without_end_is_ended_and_all_of_its_processes_too(
    home: NodeHome, deeds: Path, make_study: MakeStudy
) -> None:
    workers = Workers(home.folder, msgspec.structs.replace(LIMITS, seconds=2.0))
    options: dict[str, Any] = {
        "dataset": patients.load(home, PROGRAMME),
        "inputs": {},
        "noisy_patients": 100.0,
        "noise": NoiseSource.secure(),
    }
    try:
        workers.compute("count", make_study(), PROGRAMME, **options)
        old = _nursery(workers).children(recursive=True)
        with pytest.raises(GemelError, match="GEM422"):
            workers.compute("loop", make_study(), PROGRAMME, **options)
        workers.compute("count", make_study(), PROGRAMME, **options)
        _, alive = psutil.wait_procs(old, timeout=10)
        assert not alive
        spinning = [p for p in _nursery(workers).children(recursive=True) if p.cpu_percent(0.2) > 50]
        assert not spinning
    finally:
        workers.close()


def test_a_worker_that_dies_by_itself_is_replaced_and_asked_once_more(ask: Ask, home: NodeHome) -> None:
    assert ask(f"crash_once:{home.folder}")["told"].tolist() == [1]


def test_a_nursery_that_was_killed_is_replaced(ask: Ask, workers: Workers) -> None:
    ask("count")
    old = _nursery(workers)
    children = old.children(recursive=True)
    old.kill()
    assert ask("count")["patients"].shape == (1,)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, "workers outlived the process that forked them"


def test_a_worker_reaches_nobody_by_any_socket(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        udp.settimeout(0.5)
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0gemel-{port}")
            abstract.listen()
            # The attempt itself is sound: from here each of the two connects.
            here = misbehaving.DEEDS["connect"](str(port))["told"].tolist()
            assert here[:2] == [1, 1]
            assert here[3] == 1
            udp.recv(100)
            assert ask(f"connect:{port}")["told"].tolist() == [0, 0, 0, 0]
            with pytest.raises(TimeoutError):
                udp.recv(100)


def test_a_worker_reads_neither_keys_nor_ledger_nor_its_keepers_memory(ask: Ask, home: NodeHome) -> None:
    here = misbehaving.DEEDS["read"](f"{os.getpid()} {home.folder}")["told"].tolist()
    assert here[:5] == [1, 1, 1, 1, 1], "the attempt itself is sound"
    (home.folder / "keys" / "planted").unlink()
    told = ask(f"read:{os.getpid()} {home.folder}")["told"].tolist()
    assert told == [0] * 8
    assert not (home.folder / "keys" / "planted").exists()


def test_so_many_workers_as_allowed_and_the_one_not_used_for_longest_goes(
    ask: Ask, workers: Workers, make_study: MakeStudy
) -> None:
    studies = [make_study(study_id=f"s{number}") for number in range(3)]
    for study in studies:
        ask("count", study=study)
    time.sleep(1.5)
    assert len(_nursery(workers).children()) == LIMITS.studies
    assert {worker.key[0] for worker in workers._workers.values()} == {s.sha256 for s in studies[1:]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_root_workers_run_as_the_configured_user(
    home: NodeHome, deeds: Path, make_study: MakeStudy
) -> None:
    workers = Workers(home.folder, msgspec.structs.replace(LIMITS, user="nobody"))
    try:
        workers.compute(
            "count",
            make_study(),
            PROGRAMME,
            dataset=patients.load(home, PROGRAMME),
            inputs={},
            noisy_patients=0.0,
            noise=NoiseSource.secure(),
        )
        (process,) = _nursery(workers).children()
        assert process.username() == "nobody"
    finally:
        workers.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user, to try as one")
def test_an_ordinary_user_is_shut_in_as_well(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, child = server.getsockname()[1], os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                holds = shut_in(user="", secret=tmp_path)
                reached = misbehaving.DEEDS["connect"](str(port))["told"].tolist()
                status = 0 if holds.is_shut and not any(reached) else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_what_would_hold_is_tried_and_leaves_this_process_as_it_is(tmp_path: Path) -> None:
    holds = what_would_hold(user="", secret=tmp_path)
    assert (holds.network, holds.files) == ("namespace", "landlock")
    (tmp_path / "still").write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    if os.geteuid() == 0:
        with pytest.raises(OSError, match="shut in"):
            what_would_hold(user="no such user", secret=tmp_path)


def test_a_seeded_noise_source_is_not_taken_for_what_a_worker_draws(
    workers: Workers, home: NodeHome, make_study: MakeStudy
) -> None:
    with pytest.raises(GemelError, match="GEM420"):
        workers.compute(
            "count",
            make_study(),
            PROGRAMME,
            dataset=patients.load(home, PROGRAMME),
            inputs={},
            noisy_patients=0.0,
            noise=NoiseSource.for_tests(1),
        )


def test_a_node_answers_a_code_keeps_the_charge_and_goes_on(
    hospitals: Federation, home: NodeHome, workers: Workers, deeds: Path, make_study: MakeStudy
) -> None:
    study = make_study(sites=hospitals.site_keys)
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")

    def ask(task: str) -> tuple[Reply, Envelope]:
        request = Request(study_sha256=study.sha256, task=task, inputs_sha256=sha256_hex(b""))
        signed = sign_request(request, hospitals.coordinator.key)
        got = answer(
            home,
            Envelope(document=signed.to_bytes(), study=document.to_bytes()),
            compute=workers.compute,
        )
        return read_reply(got.document)[0], got

    assert ask(HELLO)[0].status is Status.PENDING
    hospitals.approve("beta", study.sha256)
    (deeds / "order").write_text("allocate")
    reply, got = ask("count")
    assert (reply.code, got.payload) == ("GEM421", b"")
    with home.open_ledger() as ledger:
        assert [entry.task for entry in ledger.entries() if entry.kind == "begun"] == ["count"]
        spent = ledger.epsilon_spent()
    assert spent > 0
    (deeds / "order").unlink()
    assert ask("count")[0].status is Status.RELEASED
    with home.open_ledger() as ledger:
        assert ledger.epsilon_spent() == spent, "the same task is charged once"


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, (1 << 40).to_bytes(8, "big"), (4).to_bytes(8, "big") + b"{}xx"],
    ids=["nothing", "an empty document", "a document without end", "no document"],
)
def test_what_is_no_outcome_is_not_taken_for_one(content: bytes) -> None:
    reading, writing = os.pipe()
    write_bytes(writing, content)
    os.close(writing)
    with pytest.raises(Broken):
        read_outcome(reading, deadline=time.monotonic() + 1, most_bytes=100)
    os.close(reading)


def test_a_result_larger_than_allowed_longer_than_told_or_late_is_refused() -> None:
    for outcome, result, most in (
        (Outcome(result_bytes=200), b"x" * 200, 100),
        (Outcome(result_bytes=10), b"x" * 20, 100),
        (Outcome(result_bytes=-1), b"", 100),
    ):
        reading, writing = os.pipe()
        write_outcome(writing, outcome, result)
        os.close(writing)
        with pytest.raises(Broken):
            read_outcome(reading, deadline=time.monotonic() + 1, most_bytes=most)
        os.close(reading)
    reading, writing = os.pipe()
    with pytest.raises(Broken, match="out of time"):
        read_outcome(reading, deadline=time.monotonic() + 0.05, most_bytes=100)
    os.close(reading)
    os.close(writing)


def test_limits_are_the_hospitals_and_checked(tmp_path: Path) -> None:
    assert load_limits(tmp_path) == Limits()
    (tmp_path / "limits.json").write_text('{"memory_mb": 900, "studies": 1}')
    assert load_limits(tmp_path).memory_mb == 900
    for wrong in ('{"memory_mb": 1}', '{"memory": 900}', "{", '{"seconds": 0}'):
        (tmp_path / "limits.json").write_text(wrong)
        with pytest.raises(GemelError, match="GEM407"):
            load_limits(tmp_path)
