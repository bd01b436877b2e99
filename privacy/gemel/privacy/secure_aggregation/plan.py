"""What a study's aggregation plan means: layout, context and noise of each task, the same at nodes and coordinator."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from gemel.core.arrays import ArraySpec
from gemel.core.errors import GemelError
from gemel.core.mechanism import is_evaluation
from gemel.core.study import Masking, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import STRATA, TrajectoryPlan
from gemel.privacy.secure_aggregation import distributed_noise, encoding
from gemel.privacy.secure_aggregation.context import Context, default_threshold
from gemel.privacy.secure_aggregation.encoding import Entry, Layout, Ring

# Room for what programmes release: parameters up to 1024 to 2^-40, weights up to 16.7 million patients, cells up to
# 2^40, and the sum over 500 hospitals of any of them within 64 bits.
PARAMETER_LIMIT, FRACTION_BITS = 1024.0, 40
MOST_PATIENTS = float(1 << 24)
CELL_LIMIT = float(1 << 40)
# Tables that are declared as 32-bit integers travel as 32-bit words: cells up to 2^22, over 500 hospitals.
NARROW_LIMIT = float(1 << 22)
_NARROW = ("int32",)


def is_masked(study: Study) -> bool:
    """Whether the coordinator may see sums only."""
    return study.aggregation.masking is Masking.SECURE


def layout_of(declared: Mapping[str, ArraySpec], *, sites: int) -> Layout:
    """How a task's release lies in the vector: tables as they are, parameters in fixed point with their weight."""
    entries = []
    for name, spec in sorted(declared.items()):
        whole = spec.dtype.startswith(("int", "uint"))
        cells = NARROW_LIMIT if spec.dtype in _NARROW else CELL_LIMIT
        limit, bits = (cells, None) if whole else (PARAMETER_LIMIT, FRACTION_BITS)
        entries.append(Entry(name=name, shape=spec.shape, limit=limit, fraction_bits=bits))
    if is_weighted(declared):
        entries.append(encoding.weight_entry(fraction_bits=FRACTION_BITS))
    narrow = all(spec.dtype in _NARROW for spec in declared.values())
    return Layout(entries=tuple(entries), ring=Ring(bits=32 if narrow else 64), parties=sites)


def is_weighted(declared: Mapping[str, ArraySpec]) -> bool:
    """Whether a release is averaged by the hospitals' counts: parameters are, tables are added."""
    return any(spec.dtype.startswith("float") for spec in declared.values())


def context_of(study: Study, task: str, declared: Mapping[str, ArraySpec], *, attempt: int) -> Context:
    """The context of one attempt at a task. Raises GEM322 for a plan that no number of nodes could carry out."""
    plan, sites = study.aggregation, len(study.sites)
    layout = layout_of(declared, sites=sites)
    threshold = plan.threshold or default_threshold(sites)
    least = max(threshold, study.quorum, sites - plan.dropouts if _shares_noise(study, task) else 0)
    return Context(
        study_sha256=study.sha256,
        task=task,
        attempt=attempt,
        sites=dict(study.sites),
        threshold=threshold,
        least_survivors=least,
        bits=layout.ring.bits,
        length=layout.length,
        layout_sha256=layout.sha256,
    )


def check_noise(study: Study) -> None:
    """Refuse a plan whose shares of noise do not add up to what the study is charged for (GEM305, GEM322)."""
    for task in study.tasks:
        if _shares_noise(study, task):
            for charged in study.charge(task).mechanisms:
                stated = distributed_noise.mechanism_of_sum(
                    charged.noise_multiplier, count=charged.count, **_parties(study)
                )
                if stated != charged:
                    raise GemelError("GEM305", f"{task} is charged as {charged}, its sum costs {stated}.")


def as_added(study: Study) -> Study:
    """The study with the noise that one node adds; what it is charged does not change.

    Where nodes add shares, the share. A person who is a patient at m hospitals changes a sum by m times as much, which
    takes m times the noise; of releases that are seen one by one it is m releases, which takes sqrt(m) times.
    """
    privacy, persons = study.privacy, study.synthesis.sites_of_a_person
    synthesis, metrics = privacy.synthesis_noise_multiplier, privacy.metrics_noise_multiplier
    if study.aggregation.distributed_noise:
        synthesis = distributed_noise.share_sigma(synthesis * persons, **_parties(study))
        metrics = distributed_noise.share_sigma(metrics, **_parties(study))
    else:
        synthesis *= math.sqrt(persons)
    added = {"synthesis_noise_multiplier": synthesis, "metrics_noise_multiplier": metrics}
    return msgspec.structs.replace(
        study,
        privacy=msgspec.structs.replace(privacy, **added),
        trajectories=None if study.trajectories is None else _trajectories_added(study, study.trajectories),
    )


def _trajectories_added(study: Study, plan: TrajectoryPlan) -> TrajectoryPlan:
    """Steps are each node's own, seen one by one or as good as that; the table of strata is as those of synthesis are."""
    persons, strata = study.synthesis.sites_of_a_person, plan.strata_noise_multiplier
    if study.aggregation.distributed_noise:
        strata = distributed_noise.share_sigma(strata * persons, **_parties(study))
    else:
        strata *= math.sqrt(persons)
    return msgspec.structs.replace(
        plan,
        noise_multiplier=plan.noise_multiplier * math.sqrt(persons),
        strata_noise_multiplier=strata,
    )


def _shares_noise(study: Study, task: str) -> bool:
    """Tables of which a patient changes one cell by one, and which nothing else at the node is computed from."""
    tables = task in ROUNDS or task == STRATA or is_evaluation(task)
    return is_masked(study) and study.aggregation.distributed_noise and tables


def _parties(study: Study) -> dict[str, int]:
    plan = study.aggregation
    return {"nodes": len(study.sites), "dropouts": plan.dropouts, "colluders": plan.colluders}
