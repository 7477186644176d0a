"""Benchmarks: what a run costs, beside the physical limit and other durable engines. `python -m benchmarks --help`.

`cases.py` lists what is measured and the targets; every measurement runs in a fresh process through `child.py`. Who measures:
`engine.py` and `waiting.py` this project, `startup.py` its imports and command line, `raw.py` the same rows without an
engine, `peer_dbos.py` and `peer_langgraph.py` the others.
"""
