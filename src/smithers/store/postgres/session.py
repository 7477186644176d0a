"""The shared SQL's `Session` over a `Link`: one object serves as connection and as cursor, and translates each statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from smithers.store.interface import SqlValue
from smithers.store.postgres.dialect import translate
from smithers.store.postgres.link import Answer, Link


class PostgresSession:
    """What a job or a query works with.

    A statement whose rows nobody reads is not waited for: if it fails, that shows at the next one that is, or at the
    commit, and the whole transaction is done again, one job at a time. Until then nothing may be concluded from its having
    been executed.
    """

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, link: Link) -> None:
        self.link = link

    def execute(self, statement: str, parameters: Sequence[SqlValue] = (), /) -> Answer:
        """Run one statement."""
        return self.link.send(statement, translate(statement), parameters)

    def executemany(self, statement: str, parameters: Iterable[Sequence[SqlValue]], /) -> None:
        """Run one statement for each of these parameters."""
        self.link.send_many(statement, translate(statement), parameters)

    def cursor(self) -> PostgresSession:
        """The session itself: what a statement gives is kept, whatever is run after it."""
        return self
