"""Secure aggregation: a coordinator learns the sum of hospitals' vectors, and of no hospital its own.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017, in the form for a
coordinator that may cheat. Transport-free: `participant` is a node's side, `collector` the coordinator's, and the
documents that they exchange (`wire`) may travel in any envelope. The protocol is told in `docs/secure_aggregation.md`.
"""

from gemel.privacy.secure_aggregation.collector import Collector
from gemel.privacy.secure_aggregation.context import Context, default_threshold
from gemel.privacy.secure_aggregation.encoding import Entry, Layout, Ring
from gemel.privacy.secure_aggregation.participant import Participant

__all__ = ["Collector", "Context", "Entry", "Layout", "Participant", "Ring", "default_threshold"]
