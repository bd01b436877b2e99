"""Virtual trajectories, in three tiers behind one interface: `trajectory(baseline, horizon_days, policy, rng)`."""
