"""Gateways for the conformance tests, one per module.

How the suite is made, and how to run a part of it:

- `contract.json` is the wire contract as data. `test_methods.py` calls every method by every name over every transport and
  holds the answer to its schema; `test_bad_input.py` sends everything that the schemas forbid; `test_scopes.py` tries every
  scope on every method; `test_rest.py` walks through the REST routes. What makes a good request is in `world.py`.
- One case, from this folder: `pytest "test_methods.py::test_a_good_call_fits_its_schema[getRun-runs.get-socket]"`. All of a
  method: `pytest . -k getRun`. One mistake: `pytest test_bad_input.py -k "launchRun and maxConcurrency-below"`.
- The random requests of `test_hostile.py` are the same on every run where `CI` is set.
- A method that is not built yet stands in `contract.LATER`; take it out there, add its good request to `world.py`, and it is
  held to everything that the others are.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.gateway.support import House
from tests.conformance.gateway.world import World


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("gateway")) as found:
        yield found


@pytest.fixture(scope="module")
def world(house: House) -> World:
    return World(house)
