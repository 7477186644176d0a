"""Webhooks: signed deliveries from outside become signals to the runs that wait for them, once each.

A delivery is durable before its sender is answered; handing it on happens afterwards, and again after a restart.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pydantic_core import from_json, to_json

from smithers.components.waits import correlation
from smithers.control.hosting import Hosting
from smithers.errors import InvalidInput, QueueFull, RunNotActive, SmithersError, StorageError
from smithers.jsons import list_of, object_of
from smithers.store.sql import pages, webhooks
from smithers.store.sql.webhooks import Delivery

log = logging.getLogger(__name__)
BATCH = 100
RETRY_S = 5.0
MAX_KEY = 512


@dataclass(frozen=True, slots=True)
class WebhookSource:
    """Somebody who may deliver.

    Attributes:
        id: the path segment.
        secret: the key of the HMAC-SHA256 signature.
        event: the signal that a delivery becomes.
        signature_header: where the signature stands.
        signature_prefix: what it must begin with; None takes `sha256=` or nothing, and hex or base64.
        correlation_id_path: dotted path into the body to the signal's correlation id.
        payload_path: dotted path to what the signal carries; the whole body by default.
        dedupe_key_path: dotted path to the sender's id of the delivery; a hash of the body by default.
        capacity: how many deliveries may wait to be handed on.
    """

    id: str
    secret: str
    event: str
    signature_header: str = "x-hub-signature-256"
    signature_prefix: str | None = None
    correlation_id_path: str | None = None
    payload_path: str | None = None
    dedupe_key_path: str | None = None
    capacity: int = 256

    def __repr__(self) -> str:
        return f"WebhookSource({self.id!r})"  # the secret is nobody's business

    @classmethod
    def of(cls, value: WebhookSource | Mapping[str, object]) -> WebhookSource:
        """A source from a mapping with the wire's keys (or ours). Raises `InvalidInput`."""
        if isinstance(value, WebhookSource):
            return value
        given = {_snake(key): item for key, item in value.items() if item is not None}
        known = set(cls.__dataclass_fields__)
        if unknown := set(given) - known:
            raise InvalidInput(f"webhook source: unknown field {sorted(unknown)[0]!r}")
        for name in ("id", "secret", "event"):
            if not isinstance(given.get(name), str) or not given[name]:
                raise InvalidInput(f"webhook source: {name} must be a string that is not empty")
        return cls(**given)  # type: ignore[arg-type]

    def verifies(self, body: bytes, signature: str | None) -> bool:
        """Whether a signature is this source's for these bytes."""
        if not signature:
            return False
        text = signature.strip()
        if self.signature_prefix is not None:
            if not text.startswith(self.signature_prefix):
                return False
            text = text[len(self.signature_prefix) :]
        elif text.lower().startswith("sha256="):
            text = text[7:]
        wanted = hmac.new(self.secret.encode(), body, hashlib.sha256).digest()
        return any(hmac.compare_digest(given, wanted) for given in _digests(text))

    def delivery(self, body: bytes) -> Delivery:
        """What a body delivers. Raises `ValueError` for one that is not JSON."""
        value: object = from_json(body, allow_inf_nan=False)
        found = _at(value, self.correlation_id_path) if self.correlation_id_path else None
        key = _at(value, self.dedupe_key_path) if self.dedupe_key_path else None
        is_key = isinstance(key, (str, int, float)) and not isinstance(key, bool) and 0 < len(str(key)) <= MAX_KEY
        return Delivery(
            self.id,
            str(key) if is_key else hashlib.sha256(body).hexdigest(),
            self.event,
            correlation(_text(found)),
            to_json(_at(value, self.payload_path) if self.payload_path else value).decode(),
        )


def _digests(text: str) -> list[bytes]:
    found: list[bytes] = []
    with suppress(ValueError):
        found.append(bytes.fromhex(text))
    with suppress(binascii.Error, ValueError):
        found.append(base64.b64decode(text, validate=True))
    return found


def _at(value: object, path: str) -> object:
    for name in path.split("."):
        items = list_of(value)
        is_index = name.isdecimal() and len(name) < 10 and int(name) < len(items)
        value = items[int(name)] if is_index else object_of(value).get(name)
    return value


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (str, int, float)) else None


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


class WebhookDesk:
    """Accepts deliveries into the server's database and hands them to whichever hosted runs wait for them."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._more = asyncio.Event()
        self._more.set()
        self._task = asyncio.create_task(self._run())

    async def accept(self, delivery: Delivery, capacity: int) -> None:
        """Take a delivery; durable on return, and nothing for one that was taken before. Raises `QueueFull`."""
        server = self._hosting.server
        if server is None or self._task.done():
            raise QueueFull("deliveries are not accepted any more")
        now = self._hosting.clock.now_ms()
        if not await server.store.awrite(lambda c: webhooks.accept(c, delivery, now, capacity)):
            raise QueueFull("too many deliveries wait to be handed on")
        self._more.set()

    async def _run(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            try:
                await self._hand_on()
            except StorageError as error:
                log.warning("deliveries wait", extra={"code": error.error_code})
                await asyncio.sleep(RETRY_S)
                self._more.set()

    async def _hand_on(self) -> None:
        server = self._hosting.server
        assert server is not None
        while found := await server.store.aread(lambda c: webhooks.undelivered(c, BATCH)):
            for delivery in found:
                await self._signal(delivery)
                now = self._hosting.clock.now_ms()
                await server.store.awrite(partial(webhooks.delivered, delivery=delivery, now_ms=now))

    async def _signal(self, delivery: Delivery) -> None:
        payload: object = from_json(delivery.payload_json)
        for place in self._hosting.places:
            name, key = delivery.signal_name, delivery.correlation_id
            for run_id in await place.store.aread(partial(pages.waiting_for, signal=name, correlation_id=key)):
                try:
                    await place.control.signal(
                        run_id,
                        name,
                        payload,
                        correlation_id=key,
                        idempotency_key=f"webhook:{delivery.source_id}:{delivery.dedupe_key}",
                    )
                except RunNotActive:
                    continue
                except StorageError:
                    raise
                except SmithersError as error:
                    log.warning("a delivery was refused", extra={"run_id": run_id, "code": error.error_code})

    async def close(self) -> None:
        """Accept no more; what was accepted and not handed on stays stored."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
