"""A study that asks for trajectories: real nodes train the network of visits, the coordinator averages, the certificate holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from dropped_programme import dropped_programme
from followed_people import followed_people, lent_federation
from in_process import start
from small_study import small_study

from gemel.cli.demo.federation import Federation
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope
from gemel.core.programme import Programme
from gemel.core.study import AggregationPlan, AggregationRule, Masking, Study, TrainingPlan, parse_study
from gemel.core.trajectory_plan import STRATA, is_trajectory
from gemel.privacy.accounting import price
from gemel.privacy.planning import Shares, planned_study
from gemel.privacy.secure_aggregation import plan as aggregation
from gemel.server.home import RunFolder
from gemel.server.run_check import check_run
from gemel.synthetic.releases import declared_release
from gemel.synthetic.trajectory.policy import everybody
from gemel.synthetic.trajectory.study_rounds import (
    averaged_rounds,
    check_trajectories,
    mean_of_networks,
    start_network,
    trajectory_mechanisms,
    trajectory_model,
    trajectory_plan,
)
from gemel.twins.programmes.fatty_liver import PROGRAMME as FATTY_LIVER

SIZES = {"alpha": 300, "beta": 200, "gamma": 120}
ONE_ROUND = TrainingPlan(
    rounds=1,
    local_steps=1,
    learning_rate=0.5,
    momentum=0.0,
    max_grad_norm=1.0,
    sample_rate=1.0,
    noise_multiplier=10.0,
)
SHARED = AggregationPlan(masking=Masking.SECURE, distributed_noise=True)


@pytest.fixture(scope="module")
def programme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programme]:
    with dropped_programme(tmp_path_factory.mktemp("programmes") / "dropped") as found:
        yield found


def hospitals_of(programme: Programme, folder: Path) -> Federation:
    parts = {
        site: followed_people(programme, people=size, seed=number)
        for number, (site, size) in enumerate(SIZES.items())
    }
    return lent_federation(folder, programme, parts)


def study_of(sites: Mapping[str, str], programme: Programme, **changes: object) -> Study:
    """A study with two rounds of visits, whose tasks together cost its epsilon."""
    asked = msgspec.structs.replace(
        trajectory_plan(patients=600, epsilon=1.5, hospitals=3), rounds=2, local_steps=2
    )
    changes.setdefault("training", ONE_ROUND)
    draft = small_study(sites, of=programme, trajectories=asked, **changes)
    return parse_study(planned_study(draft, shares=Shares().with_trajectories(0.3)).to_payload())


def arrays_at(run: RunFolder, task: str) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in run.load_synthesis(task).items()}


@pytest.fixture(scope="module")
def plain(
    programme: Programme, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, RunFolder, Federation]:
    """A whole run whose coordinator was killed within the second round, and went on."""
    hospitals = hospitals_of(programme, tmp_path_factory.mktemp("plain"))
    study = study_of(hospitals.site_keys, programme)
    killed: list[str] = []

    def spoil(_site: str, task: str, envelope: Envelope) -> Envelope:
        if task == "visits/2" and not killed:
            killed.append(task)
            raise KeyboardInterrupt
        return envelope

    first, run, nodes = start(hospitals, study, spoil)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert nodes.sent["visits/1"] == b""
    kept = run.synthesis_path("visits/1").read_bytes()
    again, run, nodes = start(hospitals, study)
    again.run()
    assert nodes.sent["visits/2"] == run.synthesis_path("visits/1").read_bytes() == kept
    return study, run, hospitals


def test_visits_are_learnt_over_hospitals_at_the_stated_price_and_can_be_verified(
    plain: tuple[Study, RunFolder, Federation], programme: Programme
) -> None:
    study, run, hospitals = plain
    verified(run)
    assert 2.99 < price(study.charges(), delta=study.privacy.delta) <= 3.0
    for home in hospitals.nodes.values():
        with home.open_ledger() as ledger:
            assert 2.99 < ledger.entries()[-1].epsilon_after <= 3.0
    drawn_from(study, run, programme)


def verified(run: RunFolder) -> None:
    document = run.certificate
    assert document is not None
    assert document.payload["status"] == "complete"
    check_certificate(document)
    assert "visits" in dict(check_run(document, run.folder))
    done = [task["task"] for task in document.payload["tasks"] if is_trajectory(task["task"])]
    assert done == ["visits/1", "visits/2", STRATA]


def drawn_from(study: Study, run: RunFolder, programme: Programme) -> None:
    measured = run.load_synthesis(STRATA)
    model = trajectory_model(study, programme, measured, noise="secure")
    begun = dict(start_network(study, programme).named_parameters())
    assert any(
        not np.array_equal(p.detach().numpy(), begun[name].detach().numpy())
        for name, p in model.network.named_parameters()
    )
    statement = model.statement()
    assert statement.epsilon < 3.0
    assert sum(m.count for m in statement.mechanisms) == 2 * 2 + 1
    drawn = model.trajectory(model.baselines(200, np.random.default_rng(0)), 40, everybody(), 1)
    assert set(drawn.days.tolist()) <= {0, 10, 20, 30, 40}
    known = drawn.values["pressures_after"][np.isfinite(drawn.values["pressures_after"])]
    assert set(known.tolist()) <= {100.0, 130.0, 150.0, 190.0}


def test_under_masks_the_same_walk_ends_with_the_same_claims(programme: Programme, tmp_path: Path) -> None:
    hospitals = hospitals_of(programme, tmp_path)
    study = study_of(hospitals.site_keys, programme, aggregation=SHARED)
    coordinator, run, _ = start(hospitals, study)
    coordinator.run()
    verified(run)
    drawn_from(study, run, programme)
    # The sum of the shares of noise is what is charged for two changes by one person, and little more.
    table, patients = run.load_synthesis(STRATA)[STRATA], 0.8 * sum(SIZES.values())
    spread = study.trajectories.strata_noise_multiplier * 2 * np.sqrt(2 * len(table))
    assert abs(int(table.sum()) - patients) < 5 * spread + 40


def test_the_coordinator_averages_by_noisy_counts_and_at_last_over_the_second_half_of_rounds(
    plain: tuple[Study, RunFolder, Federation], programme: Programme
) -> None:
    study, run, _ = plain
    counts = {site: float(run.map_release("count", site)["patients"][0]) for site in SIZES}
    declared = declared_release("visits/2", programme, study=study)
    releases = {site: run.load_release("visits/2", site, declared) for site in SIZES}
    for name, mean in arrays_at(run, "visits/2").items():
        weighted = sum(counts[site] * releases[site][name].astype(float) for site in SIZES)
        assert np.allclose(mean, weighted / sum(counts.values()), atol=1e-6)
    assert averaged_rounds(study) == ("visits/2",)
    last = arrays_at(run, STRATA)
    assert all(np.array_equal(last[name], array) for name, array in arrays_at(run, "visits/2").items())
    strata = [run.map_release(STRATA, site)[STRATA] for site in SIZES]
    assert np.array_equal(last[STRATA], np.sum(strata, axis=0))


def test_the_last_networks_are_averaged() -> None:
    mean = mean_of_networks([{"w": np.float32([1, 5])}, {"w": np.float32([3, 7])}], [1.0, 3.0])
    assert mean["w"].tolist() == [2.5, 6.5]


def test_a_changed_network_in_the_folder_is_found_out(plain: tuple[Study, RunFolder, Federation]) -> None:
    _, run, _ = plain
    path, document = run.synthesis_path("visits/2"), run.certificate
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert document is not None
    try:
        with pytest.raises(GemelError, match="visits/2: the file"):
            check_run(document, run.folder)
    finally:
        path.write_bytes(content)


def test_noise_is_made_for_people_at_several_hospitals(programme: Programme) -> None:
    sites = {name: f"{number:064x}" for number, name in enumerate(SIZES)}
    own, shared = study_of(sites, programme), study_of(sites, programme, aggregation=SHARED)
    assert own.synthesis.sites_of_a_person == 2
    for study in (own, shared):
        charged, added = study.trajectories, aggregation.as_added(study).trajectories
        assert added.noise_multiplier == pytest.approx(charged.noise_multiplier * np.sqrt(2))
    alone = aggregation.as_added(own).trajectories.strata_noise_multiplier
    assert alone == pytest.approx(own.trajectories.strata_noise_multiplier * np.sqrt(2))
    share = aggregation.as_added(shared).trajectories.strata_noise_multiplier
    assert share * np.sqrt(3) >= 2 * shared.trajectories.strata_noise_multiplier - 1e-6
    aggregation.check_noise(shared)
    charged = [m for charge in own.charges() if is_trajectory(charge.task) for m in charge.mechanisms]
    assert trajectory_mechanisms(own) == charged
    assert all(charge.share == "training" for charge in own.charges() if is_trajectory(charge.task))


def test_a_study_survives_its_payload_and_one_without_trajectories_does_not_name_them(
    programme: Programme,
) -> None:
    sites = {name: f"{number:064x}" for number, name in enumerate(SIZES)}
    study = study_of(sites, programme)
    assert parse_study(study.to_payload()) == study
    without = small_study(sites, of=programme)
    assert "trajectories" not in without.to_payload()
    with pytest.raises(GemelError, match="to_payload"):
        parse_study({**without.to_payload(), "trajectories": None})


def test_studies_that_cannot_be_run_are_refused(programme: Programme) -> None:
    sites = {name: f"{number:064x}" for number, name in enumerate(SIZES)}
    study = study_of(sites, programme)
    robust = msgspec.structs.replace(study, aggregation=AggregationPlan(rule=AggregationRule.MEDIAN))
    with pytest.raises(GemelError, match="a robust rule is none"):
        parse_study(robust.to_payload())
    for change in ({"classes": 1}, {"noise_multiplier": 0.01}, {"rounds": 1}):
        plan = msgspec.structs.replace(study.trajectories, **change)
        with pytest.raises(GemelError, match="trajectories"):
            parse_study(msgspec.structs.replace(study, trajectories=plan).to_payload())
    with pytest.raises(GemelError, match="declares no visits"):
        check_trajectories(study, FATTY_LIVER)
    large = msgspec.structs.replace(study.trajectories, classes=256, hidden=256)
    with pytest.raises(GemelError, match="parameters"):
        check_trajectories(msgspec.structs.replace(study, trajectories=large), programme)
    with pytest.raises(GemelError, match="Shares"):
        planned_study(study, shares=Shares())
