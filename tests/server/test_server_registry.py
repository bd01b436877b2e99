"""The registry: what a real run left becomes records, cards and files that cannot be changed unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from in_process import start
from small_study import small_study

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, read_signed, signed_by
from gemel.core.study import parse_study
from gemel.server.home import CoordinatorHome
from gemel.server.registry.models import CARD, CARD_PAGE, CERTIFICATE, MANIFEST, STUDY, WEIGHTS, Facts, Models
from gemel.server.registry.registering import catch_up, open_models
from gemel.server.registry.views import list_models, model_card_of, model_file, show_model
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.recalibration import Flag

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation
    from gemel.core.study import Study

MakeStudy = Callable[..., "Study"]


@pytest.fixture(scope="module")
def run_once(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a coordinator after a whole run of two rounds; never touched again."""
    from gemel.cli.demo.federation import create

    folder = tmp_path_factory.mktemp("registry") / "federation"
    federation = create(folder, exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)
    coordinator, _, _ = start(federation, small_study(federation.site_keys))
    coordinator.run()
    return federation.coordinator.folder


@pytest.fixture
def finished(run_once: Path, tmp_path: Path) -> CoordinatorHome:
    """A copy of that home, to do with as one likes."""
    shutil.copytree(run_once, tmp_path / "home")
    return CoordinatorHome(tmp_path / "home")


def test_every_version_of_a_finished_run_is_listed_and_only_the_last_is_final(
    finished: CoordinatorHome,
) -> None:
    models = list_models(finished)
    assert [(model["version"], model["state"]) for model in models] == [(1, "checkpoint"), (2, "final")]
    assert list_models(finished) == models, "listing again registers nothing new"


def test_a_card_says_what_the_run_was(finished: CoordinatorHome) -> None:
    study = parse_study(json.loads(model_file(finished, "test", STUDY)[0])["payload"])
    card, page = model_card_of(finished, "test")
    assert card["lineage"]["study_sha256"] == study.sha256
    assert card["lineage"]["certificate_sha256"]
    assert set(card["privacy"]["spent_at_hospitals"]) == set(study.sites)
    assert all(spent and spent > 0 for spent in card["privacy"]["spent_at_hospitals"].values())
    assert [feature["name"] for feature in card["features"]] == list(PROGRAMME.feature_names)
    assert {f["unit"] for f in card["features"]} >= {"kg/m2", "mm[Hg]"}
    for outcome in card["evaluation"]["scores"].values():
        assert outcome["auc_5y"]["standard_error"] > 0
    fits = card["evaluation"]["calibration"]
    assert set(fits) == set(study.sites)
    for of in fits.values():
        assert set(of) == set(card["evaluation"]["scores"])
        assert all(
            fit["low"] <= fit["value"] <= fit["high"] and fit["flag"] in set(Flag) for fit in of.values()
        )
    assert card["twin"]["validation"]["grade"] in page
    assert card["lineage"]["hospitals"]["alpha"]["rounds"] == ["train/1", "train/2"]
    first = list_models(finished)[0]["model_sha256"]
    assert card["lineage"]["parent_sha256"] == first
    for told in (
        PROGRAMME.question,
        study.sha256,
        "ε",
        "## Known limits",
        "### Calibration",
        "| alpha |",
        card["not_intended"],
    ):
        assert told in page


def test_the_weights_given_out_are_the_twin_of_the_certificate(finished: CoordinatorHome) -> None:
    certificate = json.loads(model_file(finished, "test", CERTIFICATE)[0])
    weights, media_type = model_file(finished, "test", WEIGHTS)
    assert sha256_hex(weights) == certificate["payload"]["model_sha256"]
    assert media_type == "application/octet-stream"
    from gemel.core.arrays import unpack_arrays

    twin = make_twin(PROGRAMME)
    twin.load_arrays(unpack_arrays(weights, twin.array_specs()))


def test_the_record_is_signed_by_the_coordinator_and_names_every_file_by_hash(
    finished: CoordinatorHome,
) -> None:
    record = read_signed(model_file(finished, "test", MANIFEST)[0], kind="model")
    assert signed_by(record, finished.key.public_hex)
    assert set(record.payload["files"]) == {WEIGHTS, CARD, CARD_PAGE, STUDY, CERTIFICATE}
    for name, listed in record.payload["files"].items():
        assert sha256_hex(model_file(finished, "test", name)[0]) == listed["sha256"]


def test_a_changed_file_is_not_given_out(finished: CoordinatorHome) -> None:
    sha256 = show_model(finished, "test")["files"][WEIGHTS]["sha256"]
    path = finished.folder / "models" / sha256[:2] / sha256
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(GemelError, match="GEM532"):
        model_file(finished, "test", WEIGHTS)
    path.unlink()
    with pytest.raises(GemelError, match="GEM532"):
        model_file(finished, "test", WEIGHTS)


def test_a_row_that_was_changed_in_the_store_is_not_believed(finished: CoordinatorHome) -> None:
    from sqlalchemy import text

    from gemel.server.store import open_store, store_url

    models = open_models(finished)
    catch_up(finished, models)
    with open_store(store_url(finished.folder)).begin() as connection:
        connection.execute(text("UPDATE model_revisions SET study_id = 'better'"))
    with pytest.raises(GemelError, match="GEM532"):
        models.manifest(models.find("better"))


def test_a_record_by_another_key_is_not_believed(finished: CoordinatorHome) -> None:
    models = open_models(finished)
    catch_up(finished, models)
    stranger = Models(models._engine, finished.folder, public_key=SigningKey.generate().public_hex)
    with pytest.raises(GemelError, match="GEM102"):
        stranger.manifest(stranger.find("test"))


def test_a_changed_twin_of_a_run_is_not_registered(finished: CoordinatorHome, tmp_path: Path) -> None:
    run = next((finished.folder / "runs").iterdir())
    (run / "model-0002.safetensors").write_bytes((run / "model-0001.safetensors").read_bytes())
    models = open_models(finished)
    faults = catch_up(finished, models)
    assert [fault.code for fault in faults] == ["GEM532"]
    assert [record.version for record in models.all()] == [1], "the sound one is registered all the same"


def test_the_same_weights_cannot_get_another_study(finished: CoordinatorHome) -> None:
    models = open_models(finished)
    catch_up(finished, models)
    record = models.find("test")
    facts = Facts(
        model_sha256=record.model_sha256,
        study_sha256="0" * 64,
        study_id="test",
        programme=record.programme,
        version=record.version,
        state="final",
        certificate_sha256="",
    )
    with pytest.raises(GemelError, match="GEM535"):
        models.register(facts, {WEIGHTS: models.file(record, WEIGHTS)}, finished.key)


def test_a_running_study_has_its_checkpoints_on_record(federation: Federation, make_study: MakeStudy) -> None:
    class Enough(Exception):
        pass

    def until_round_two(_site: str, task: str, envelope: object) -> object:
        if task == "train/2":
            raise Enough
        return envelope

    coordinator, _, _ = start(federation, make_study(), until_round_two)  # type: ignore[arg-type]
    with pytest.raises(Enough):
        coordinator.run()
    home = federation.coordinator
    assert [(m["version"], m["state"]) for m in list_models(home)] == [(1, "checkpoint")]
    card, page = model_card_of(home, "test")
    assert card["evaluation"]["scores"] is None
    assert "checkpoint" in page
    resumed, _, _ = start(federation, make_study())
    resumed.run()
    assert [(m["version"], m["state"]) for m in list_models(home)] == [(1, "checkpoint"), (2, "final")]


@pytest.mark.parametrize(
    "name", ["", "test2", "0" * 64, "../coordinator", "..", "a/b", "%", "test' OR '1'='1", "tes"]
)
def test_what_is_no_name_of_a_model_finds_none(finished: CoordinatorHome, name: str) -> None:
    with pytest.raises(GemelError, match="GEM531"):
        show_model(finished, name)


@pytest.mark.parametrize("file", ["../../keys/coordinator.key", "/etc/passwd", "model.onnx.", "", "card"])
def test_a_file_is_a_name_of_the_record_and_never_a_path(finished: CoordinatorHome, file: str) -> None:
    with pytest.raises(GemelError, match="GEM531"):
        model_file(finished, "test", file)


def test_a_title_with_markup_cannot_break_the_card(federation: Federation, make_study: MakeStudy) -> None:
    study = make_study(study_id="x|y\n# <script>alert(1)</script>")
    coordinator, _, _ = start(federation, study)
    coordinator.run()
    _, page = model_card_of(federation.coordinator, study.sha256)
    assert "<script>" not in page
    assert "\n# &lt;script>" not in page
