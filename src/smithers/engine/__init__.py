"""The engine acts on the scheduler's decisions: runs attempts, commits steps, keeps leases, recovers, waits."""
