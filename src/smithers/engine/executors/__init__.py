"""Executors: where a task's function is computed, if not in this process. `calls` is what they share, `ray` the one that
sends functions to a Ray cluster, `ray_worker` what runs there.
"""
