from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.core.signing import SigningKey, read_signed, sign_document
from gemel.privacy import ledger as ledger_module
from gemel.privacy.accounting import epsilon, epsilon_of_events_json
from gemel.privacy.ledger import Ledger
from gemel.privacy.ledger_chain import LedgerEntry, verify_ledger_document

DELTA = 1e-5
STUDY = "11" * 32
TABLES = (Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=9.0, count=6),)
STEPS = (Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=12.0, count=5),)


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def open_ledger(path: Path, key: SigningKey, *, cap: float = 3.0, site: str = "north") -> Ledger:
    return Ledger.open(path, key=key, site=site, epsilon_cap=cap, delta=DELTA)


def reserve(
    ledger: Ledger,
    task: str,
    mechanisms: Sequence[Mechanism] = STEPS,
    *,
    request: str = "22" * 32,
    study: str = STUDY,
) -> LedgerEntry:
    return ledger.reserve(
        study_sha256=study,
        programme="fatty_liver/1",
        task=task,
        request_sha256=request,
        snapshot="33" * 32,
        patients=None,
        mechanisms=mechanisms,
    )


def refused(code: str) -> pytest.RaisesExc[GemelError]:
    return pytest.raises(GemelError, match=f"^{code} ")


def test_a_new_ledger_has_spent_nothing_and_only_its_owner_reads_it(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        assert ledger.epsilon_spent() == 0
        assert ledger.remaining() == 3.0
        assert [e.kind for e in ledger.entries()] == ["opened"]
    assert stat.S_IMODE((tmp_path / "l.sqlite").stat().st_mode) == 0o600


def test_the_file_is_written_through_before_a_reservation_returns(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        assert ledger._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)


def test_reservations_compose_and_survive_reopening(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        first = reserve(ledger, "train/1")
        second = reserve(ledger, "evaluate", TABLES)
        assert second.previous == first.sha256
        assert second.epsilon_after == ledger.epsilon_spent() == epsilon((*STEPS, *TABLES), delta=DELTA)
        head = ledger.head
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        assert ledger.head == head == second.sha256
        assert ledger.charged(STUDY, "evaluate") == second
        assert ledger.charged(STUDY, "train/2") is None
        assert ledger.remaining() == pytest.approx(3.0 - second.epsilon_after)


def test_a_reservation_that_would_pass_the_cap_is_refused_and_not_written(
    tmp_path: Path, key: SigningKey
) -> None:
    cap = epsilon((*STEPS, *STEPS), delta=DELTA)
    with open_ledger(tmp_path / "l.sqlite", key, cap=cap) as ledger:
        reserve(ledger, "train/1")
        reserve(ledger, "train/2")  # to the very limit
        before = ledger.entries()
        with refused("GEM301"):
            reserve(
                ledger, "count", (Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=500.0),)
            )
        assert ledger.entries() == before
        assert ledger.epsilon_spent() == cap
    with open_ledger(tmp_path / "l.sqlite", key, cap=cap / 2) as ledger, refused("GEM301"):
        reserve(ledger, "train/3")  # a cap that was lowered under what is spent


def test_the_same_request_is_charged_once(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key, cap=epsilon(STEPS, delta=DELTA)) as ledger:
        entry = reserve(ledger, "train/1")
        assert reserve(ledger, "train/1") == entry
        assert len(ledger.entries()) == 2


def test_another_request_for_a_charged_task_is_refused(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        reserve(ledger, "train/1")
        with refused("GEM304"):
            reserve(ledger, "train/1", request="99" * 32)
        with refused("GEM304"):
            reserve(ledger, "train/1", TABLES)
        reserve(ledger, "train/1", study="77" * 32)
        assert ledger.epsilon_spent() == epsilon((*STEPS, *STEPS), delta=DELTA)


def test_what_names_no_mechanism_or_an_unknown_one_is_refused(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        with refused("GEM303"):
            reserve(ledger, "train/1", ())
        with refused("GEM303"):
            reserve(ledger, "train/1", (Mechanism(kind="magic", noise_multiplier=1.0),))  # type: ignore[arg-type]
        assert len(ledger.entries()) == 1


def test_a_release_is_recorded_once_and_costs_nothing_more(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        entry = reserve(ledger, "train/1")
        spent = ledger.record_release(entry, release_sha256="aa" * 32)
        assert (spent.kind, spent.reservation, spent.release_sha256) == ("spent", entry.sha256, "aa" * 32)
        assert ledger.record_release(entry, release_sha256="aa" * 32) == spent
        assert ledger.released(STUDY, "train/1") == spent
        with refused("GEM304"):
            ledger.record_release(entry, release_sha256="bb" * 32)
        assert ledger.epsilon_spent() == entry.epsilon_after


def test_a_release_without_a_reservation_here_is_refused(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "other.sqlite", key) as other:
        foreign = reserve(other, "train/1")
        spent = other.record_release(foreign, release_sha256="aa" * 32)
        with refused("GEM307"):
            other.record_release(spent, release_sha256="aa" * 32)
    with open_ledger(tmp_path / "l.sqlite", key) as ledger, refused("GEM307"):
        ledger.record_release(foreign, release_sha256="aa" * 32)


def test_a_ledger_belongs_to_one_key_and_one_site(tmp_path: Path, key: SigningKey) -> None:
    open_ledger(tmp_path / "l.sqlite", key).close()
    with refused("GEM302"):
        open_ledger(tmp_path / "l.sqlite", SigningKey.generate())
    with refused("GEM302"):
        open_ledger(tmp_path / "l.sqlite", key, site="south")


@pytest.mark.parametrize("cap", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ledger_without_a_real_cap_is_refused(tmp_path: Path, key: SigningKey, cap: float) -> None:
    with refused("GEM305"):
        open_ledger(tmp_path / "l.sqlite", key, cap=cap)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET content = '{}' WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 2",
        "INSERT OR REPLACE INTO entries (seq, content) VALUES (2, '{}')",
        "INSERT INTO entries (seq, content) VALUES (9, '{}')",
    ],
)
def test_the_table_itself_refuses_to_rewrite_history(tmp_path: Path, key: SigningKey, statement: str) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        reserve(ledger, "train/1")
    database = sqlite3.connect(tmp_path / "l.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(statement)
    database.close()


def test_nothing_is_written_when_the_commit_fails(
    tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        with monkeypatch.context() as patch:

            def fail(*_: object) -> LedgerEntry:
                raise OSError("disk full")

            patch.setattr(ledger_module, "canonical_bytes", fail)
            with pytest.raises(OSError, match="disk full"):
                reserve(ledger, "train/1")
        assert len(ledger.entries()) == 1
        assert reserve(ledger, "train/1").seq == 2


def test_threads_share_one_ledger(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key, cap=30.0) as ledger:
        threads = [threading.Thread(target=reserve, args=(ledger, f"train/{i}")) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ledger.verify()
        assert len(ledger.entries()) == 9


def test_two_open_ledgers_see_each_others_entries(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as one, open_ledger(tmp_path / "l.sqlite", key) as two:
        entry = reserve(one, "train/1")
        assert two.charged(STUDY, "train/1") == entry
        assert reserve(two, "train/2").previous == entry.sha256
        assert one.head == two.head


def test_of_two_processes_that_race_for_the_last_budget_one_wins(tmp_path: Path) -> None:
    script = Path(__file__).with_name("race_loop.py")
    run = subprocess.run(
        [sys.executable, script, tmp_path, "--trials", "8"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [[["GEM301", "won"], 2]] * 8


def test_an_exported_ledger_verifies_offline_and_recomputes_from_its_json(
    tmp_path: Path, key: SigningKey
) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        reserve(ledger, "count", TABLES)
        ledger.record_release(reserve(ledger, "train/1"), release_sha256="aa" * 32)
        document = read_signed(ledger.export().to_bytes(), kind="ledger")
        assert verify_ledger_document(document) == ledger.entries()
        payload = json.loads(document.to_bytes())["payload"]
        assert (payload["site"], payload["public_key"]) == ("north", key.public_hex)
        assert (payload["epsilon_cap"], payload["delta"], payload["head"]) == (3.0, DELTA, ledger.head)
        events = [event for entry in payload["entries"] for event in entry["mechanisms"]]
        assert (
            epsilon_of_events_json(events, delta=DELTA) == payload["epsilon_spent"] == ledger.epsilon_spent()
        )


def test_the_snippet_in_the_documentation_recomputes_an_exported_ledger(
    tmp_path: Path, key: SigningKey
) -> None:
    """Written there independently of the accountant here, with dp-accounting and nothing of ours."""
    page = Path(__file__).resolve().parents[2] / "docs" / "privacy.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert "gemel" not in snippet
    sampled = Mechanism(kind=MechanismKind.POISSON_GAUSSIAN, noise_multiplier=3.0, sample_rate=0.1, count=10)
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        for task, mechanisms in (("count", TABLES), ("train/1", STEPS), ("train/2", STEPS)):
            reserve(ledger, task, mechanisms)
        reserve(ledger, "train/3", (sampled, Mechanism(kind=MechanismKind.LAPLACE, noise_multiplier=30.0)))
        (tmp_path / "ledger.json").write_bytes(ledger.export().to_bytes())
        spent = ledger.epsilon_spent()
    run = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    recomputed = float(run.stdout.split()[0])
    assert recomputed - 1e-9 <= spent <= recomputed + 2e-6


def test_an_exported_empty_ledger_verifies(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        assert len(verify_ledger_document(ledger.export())) == 1


def test_entries_survive_their_json_form(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        entry = reserve(ledger, "train/1")
        assert msgspec.json.decode(msgspec.json.encode(entry), type=LedgerEntry) == entry


def test_a_key_may_sign_other_things_but_not_pass_them_for_a_ledger(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path / "l.sqlite", key) as ledger:
        payload = ledger.export().payload
    with refused("GEM101"):
        verify_ledger_document(sign_document("study", payload, key, role="node"))
    with refused("GEM102"):
        verify_ledger_document(sign_document("ledger", payload, SigningKey.generate(), role="node"))
    with refused("GEM302"):
        verify_ledger_document(sign_document("ledger", {"site": "north"}, key, role="node"))
