"""Twins: a patient's state evolving over years, learnt under privacy, run forward, questioned, and scored."""
