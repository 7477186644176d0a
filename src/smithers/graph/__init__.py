"""From a tree of components to a plan: pure, no I/O, no clock."""
