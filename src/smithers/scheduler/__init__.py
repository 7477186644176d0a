"""The decision core: plan and task states in, what to do next out. Pure: no I/O, no clock, no randomness."""
