"""One masked sum in one process: real masks and shares of keys, with nodes that are gone and nodes that add nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.signing import SigningKey
from gemel.core.study import Study
from gemel.privacy.secure_aggregation import Collector, Participant
from gemel.privacy.secure_aggregation.plan import context_of, layout_of
from gemel.synthetic import protocol
from gemel.synthetic.domain import Domain


def sum_through_masks(
    study: Study, domain: Domain, task: str, releases: Sequence[NDArray[np.generic]]
) -> NDArray[np.int64]:
    """What the coordinator sees when these hospitals send their releases of a round.

    Of the study's hospitals as many as it allows are gone once they have shared keys, and the rest, who may tell what they sent,
    send nothing but zeros.
    """
    keys = {site: SigningKey.generate() for site in study.sites}
    study = msgspec.structs.replace(study, sites={site: key.public_hex for site, key in keys.items()})
    declared = protocol.declared_tables(task, domain)
    ((name, spec),) = declared.items()
    layout = layout_of(declared, sites=len(study.sites))
    context = context_of(study, task, declared, attempt=1)
    here = sorted(study.sites)[: len(study.sites) - study.aggregation.dropouts]
    zeros = np.zeros(spec.shape, spec.dtype)
    sent = dict(zip(here, [*releases, *[zeros] * (len(here) - len(releases))], strict=True))
    collector = Collector(context)
    with tempfile.TemporaryDirectory() as folder:
        nodes = {site: Participant(Path(folder) / f"{site}.json", key, site) for site, key in keys.items()}
        for site, node in nodes.items():
            collector.take_advertisement(site, node.advertise(context))
        roster = collector.close_advertisements()
        for site, node in nodes.items():
            collector.take_shares(site, node.share(context, roster))
        delivery = collector.close_shares()
        for site, array in sent.items():
            collector.take_masked(
                site, *nodes[site].mask(context, delivery[site], layout.encode({name: array}))
            )
        survivors = collector.close_masked()
        for site in sent:
            collector.take_confirmation(site, nodes[site].confirm(context, survivors))
        request = collector.close_confirmations()
        for site in sent:
            collector.take_unmasking(site, nodes[site].unmask(context, request))
        return layout.decode(collector.result())[name].astype(np.int64)
