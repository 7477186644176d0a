"""Webhook deliveries: accepted once by (source, key), durable before the sender is answered, kept until handed on, and then
for as long as `prune` says, so that the same delivery sent again is known.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from smithers.store.sql.session import Session

GATEWAY: Final = "gateway:"
"""How sources begin whose deliveries are carried out while their sender waits."""


class Delivery(NamedTuple):
    """An accepted delivery."""

    source_id: str
    dedupe_key: str
    signal_name: str
    correlation_id: str | None
    payload_json: str


def accept(connection: Session, delivery: Delivery, now_ms: int, capacity: int) -> bool:
    """Store a delivery, unless it was accepted before. False when its source has `capacity` undelivered ones already; it
    may have a few more, where several processes accept at once.
    """
    known = connection.execute(
        "SELECT 1 FROM _smithers_webhook_deliveries WHERE source_id = ? AND dedupe_key = ?", delivery[:2]
    ).fetchone()
    if known is not None:
        return True
    row = connection.execute(
        "SELECT count(*) FROM _smithers_webhook_deliveries WHERE source_id = ? AND delivered_at_ms IS NULL",
        (delivery.source_id,),
    ).fetchone()
    if row is not None and int(row[0]) >= capacity:
        return False
    connection.execute(
        "INSERT INTO _smithers_webhook_deliveries (source_id, dedupe_key, signal_name, correlation_id, payload_json, "
        "received_at_ms) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*delivery, now_ms),
    )
    return True


def undelivered(connection: Session, limit: int) -> list[Delivery]:
    """Deliveries that no run was given yet, oldest first."""
    rows = connection.execute(
        "SELECT source_id, dedupe_key, signal_name, correlation_id, payload_json FROM _smithers_webhook_deliveries "
        "WHERE delivered_at_ms IS NULL AND source_id NOT LIKE ? ORDER BY received_at_ms, source_id, dedupe_key LIMIT ?",
        (f"{GATEWAY}%", limit),
    )
    return [Delivery(*row) for row in rows]


def delivered(connection: Session, delivery: Delivery, now_ms: int) -> None:
    """Note that a delivery was handed on."""
    connection.execute(
        "UPDATE _smithers_webhook_deliveries SET delivered_at_ms = ? WHERE source_id = ? AND dedupe_key = ?",
        (now_ms, *delivery[:2]),
    )


def plan(connection: Session, delivery: Delivery, now_ms: int) -> tuple[str, bool]:
    """Note what is going to be done about a delivery, once. What was noted first, and whether it has been done."""
    connection.execute(
        "INSERT INTO _smithers_webhook_deliveries (source_id, dedupe_key, signal_name, correlation_id, payload_json, "
        "received_at_ms) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*delivery, now_ms),
    )
    row = connection.execute(
        "SELECT payload_json, delivered_at_ms FROM _smithers_webhook_deliveries WHERE source_id = ? AND dedupe_key = ?",
        delivery[:2],
    ).fetchall()[0]
    return str(row[0]), row[1] is not None


def done(connection: Session, delivery: Delivery, answer_json: str, now_ms: int) -> None:
    """Note that what was planned has been done, and what the sender was answered."""
    connection.execute(
        "UPDATE _smithers_webhook_deliveries SET delivered_at_ms = ?, payload_json = ? "
        "WHERE source_id = ? AND dedupe_key = ?",
        (now_ms, answer_json, *delivery[:2]),
    )


def prune(connection: Session, before_ms: int, keep: int, limit: int) -> int:
    """Forget deliveries that were handed on before a moment, and the oldest of more than `keep`; also those that a sender
    has given up before they were carried out. At most `limit` at once; returns how many, 0 once nothing is left to do.
    """
    handed_on = connection.execute(
        "SELECT count(*) FROM _smithers_webhook_deliveries WHERE delivered_at_ms IS NOT NULL"
    ).fetchall()[0][0]
    too_many = min(max(int(handed_on) - keep, 0), limit)
    rows = connection.execute(
        "SELECT source_id, dedupe_key, delivered_at_ms FROM _smithers_webhook_deliveries "
        "WHERE delivered_at_ms IS NOT NULL ORDER BY delivered_at_ms, source_id, dedupe_key LIMIT ?",
        (limit,),
    ).fetchall()
    gone = [row[:2] for at, row in enumerate(rows) if at < too_many or int(row[2]) < before_ms]
    given_up = connection.execute(
        "SELECT source_id, dedupe_key FROM _smithers_webhook_deliveries "
        "WHERE delivered_at_ms IS NULL AND received_at_ms < ? AND source_id LIKE ? LIMIT ?",
        (before_ms, f"{GATEWAY}%", limit - len(gone)),
    ).fetchall()
    gone += given_up
    if gone:
        connection.executemany(
            "DELETE FROM _smithers_webhook_deliveries WHERE source_id = ? AND dedupe_key = ?",
            [tuple(row) for row in gone],
        )
    return len(gone)
