"""The hospital: home, approvals, gate, outbox, and the one path by which a task is answered."""
