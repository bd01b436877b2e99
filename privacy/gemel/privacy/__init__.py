"""Patient-level differential privacy: noise, accounting, planning, the ledger, noisy counts, the training engine."""
