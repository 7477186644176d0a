"""Webhooks: `POST /webhooks/:workflowKey`. A signed body becomes signals for the runs that wait for it, or a new run.

The signature covers the raw bytes and is checked before anything is read. With a delivery id, what is to be done about a
delivery is stored before it is done, and every part of it can be done twice without effect: a delivery that is sent
again, also after a crash, does nothing new and gets the same answer.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from pydantic_core import from_json, to_json
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from smithers.asgi.routing import Call, Doc, Route
from smithers.components.waits import correlation
from smithers.control.caller import Caller
from smithers.errors import InvalidInput, PayloadTooLarge, RunNotActive, RunNotFound
from smithers.gateway.config import SignalHook, WebhookConfig
from smithers.gateway.entries import Entry
from smithers.gateway.frames import check_bounds, parse_json
from smithers.gateway.http import json_answer
from smithers.gateway.launching import LaunchOptions, Trigger
from smithers.gateway.metering import UNKNOWN, Meter
from smithers.gateway.problems import RpcError, rpc_error_of
from smithers.jsons import list_of, object_of, text_of
from smithers.store.sql import pages, reads, webhooks
from smithers.store.sql.webhooks import Delivery

if TYPE_CHECKING:
    from smithers.control.hosting import Place
    from smithers.gateway.services import Services

log = logging.getLogger(__name__)
MAX_DELIVERY_ID: Final = 256
_SYSTEM: Final = ("*",)
_OBJECT: Final[dict[str, object]] = {"type": "object"}


class WebhookRoutes:
    """The webhook route of the registered workflows."""

    def __init__(self, services: Services, meter: Meter) -> None:
        self._services = services
        self._meter = meter

    def table(self) -> list[Route]:
        """The row of the route table."""
        doc = Doc("Deliver", "webhooks", body=_OBJECT, answer=_OBJECT, errors=(400, 401, 404, 413))
        return [Route("POST", "/webhooks/:workflowKey", self.deliver, doc, access="signed")]

    async def deliver(self, call: Call) -> ASGIApp:
        """`POST /webhooks/:workflowKey`."""
        key = call.params["workflowKey"]
        label = key if self._services.entries.get(key) is not None else UNKNOWN
        try:
            answer = await self._deliver(call)
            self._meter.webhook(label, None)
            return json_answer(answer)
        except ClientDisconnect:
            raise
        except Exception as error:
            problem = rpc_error_of(error)
            self._meter.webhook(label, problem)
            body = {"ok": False, "error": {"code": problem.error_code, "message": problem.summary}}
            return json_answer(to_json(body), problem.http_status)

    async def _deliver(self, call: Call) -> str:
        key = call.params["workflowKey"]
        entry = await self._services.entries.find(key)
        if entry is None or entry.webhook is None:
            raise RpcError("NOT_FOUND", f"Workflow {key[:120]} has no webhook")
        config = entry.webhook
        if not config.secret.strip():
            raise RpcError("SERVER_ERROR", "the webhook's secret is blank")
        if config.signal is None and not config.run.enabled:
            raise RpcError("INVALID_REQUEST", "the webhook neither delivers a signal nor starts a run")
        try:
            body = await call.body()
        except PayloadTooLarge as error:
            raise RpcError("PayloadTooLarge", error.summary) from error
        stamp = None if config.timestamp_header is None else call.header(config.timestamp_header)
        verify(config, body, call.header(config.signature_header), stamp, self._services.clock.now_ms())
        value: object = parse_json(body) if body.strip() else dict[str, object]()
        check_bounds("", value)
        delivery_id = None if config.delivery_header is None else call.header(config.delivery_header)
        if delivery_id is not None and not 0 < len(delivery_id) <= MAX_DELIVERY_ID:
            raise RpcError("INVALID_INPUT", f"the delivery id must have 1 to {MAX_DELIVERY_ID} characters")
        answer = await self._process(entry, config, value, delivery_id)
        self._services.changes.note("runs", "run_events", "nodes")
        return answer

    async def _process(self, entry: Entry, config: WebhookConfig, body: object, delivery_id: str | None) -> str:
        place = await self._services.launching.place_of(entry)
        signal = config.signal
        key = None if signal is None else correlation_of(signal, body)
        targets = [] if signal is None else await self._targets(entry, place, signal, key, body)
        delivery: Delivery | None = None
        if delivery_id is not None:
            name = "" if signal is None else signal.name
            delivery = Delivery(f"gateway:{entry.key}", delivery_id, name, key, to_json(targets).decode())
            now = self._services.clock.now_ms()
            noted, is_done = await place.store.awrite(partial(webhooks.plan, delivery=delivery, now_ms=now))
            if is_done:
                return noted
            targets = [str(run_id) for run_id in list_of(from_json(noted))]
        delivered = await self._signal(place, config, body, targets, key, delivery)
        started: dict[str, object] | None = None
        if not delivered and config.run.enabled:
            started = await self._start(entry, config, body, delivery)
        answer = {
            "ok": True,
            "workflow": entry.key,
            "verified": True,
            "delivered": delivered,
            "matchedRunIds": targets,
            "started": started,
        }
        text = to_json(answer).decode()
        if delivery is not None:
            now = self._services.clock.now_ms()
            await place.store.awrite(partial(webhooks.done, delivery=delivery, answer_json=text, now_ms=now))
        return text

    async def _targets(
        self, entry: Entry, place: Place, signal: SignalHook, key: str | None, body: object
    ) -> list[str]:
        """The runs of this workflow that wait for the signal; only the one that the body names, if it names one."""
        wanted = None if signal.run_id_path is None else text_of(at(body, signal.run_id_path))
        found = await place.store.aread(partial(pages.waiting_for, signal=signal.name, correlation_id=key))
        entries = self._services.entries
        targets: list[str] = []
        for run_id in found:
            if wanted not in (None, run_id):
                continue
            row = await place.control.run(run_id)
            _, config = await place.store.aread(partial(reads.spec, run_id=run_id))
            if entries.key_of(row, object_of(from_json(config)), place.path) == entry.key:
                targets.append(run_id)
        return targets

    async def _signal(
        self,
        place: Place,
        config: WebhookConfig,
        body: object,
        targets: list[str],
        key: str | None,
        delivery: Delivery | None,
    ) -> list[dict[str, object]]:
        signal = config.signal
        if signal is None:
            return []
        payload = body if signal.payload_path is None else at(body, signal.payload_path)
        delivered: list[dict[str, object]] = []
        for run_id in targets:
            try:
                found = await place.control.signal(
                    run_id,
                    signal.name,
                    payload,
                    correlation_id=key,
                    caller=Caller(user=f"webhook:{place.path}", role="system", scopes=_SYSTEM),
                    idempotency_key=None if delivery is None else f"{delivery.source_id}:{delivery.dedupe_key}",
                )
            except (RunNotActive, RunNotFound):
                continue  # it has ended meanwhile
            place.hub.touch(run_id)
            delivered.append(
                {
                    "runId": run_id,
                    "seq": found.seq,
                    "signalName": found.signal_name,
                    "correlationId": found.correlation_id,
                    "receivedAtMs": found.received_at_ms,
                }
            )
        return delivered

    async def _start(
        self, entry: Entry, config: WebhookConfig, body: object, delivery: Delivery | None
    ) -> dict[str, object]:
        value = body if config.run.input_path is None else at(body, config.run.input_path)
        input_ = cast("dict[str, object]", value) if isinstance(value, dict) else {"payload": value}
        key = None if delivery is None else f"{delivery.source_id}:{delivery.dedupe_key}"
        options = LaunchOptions(idempotency_key=key)
        return await self._services.launching.launch(entry.key, input_, Trigger.system(f"webhook:{entry.key}"), options)


def verify(config: WebhookConfig, body: bytes, signature: str | None, stamp: str | None, now_ms: int) -> None:
    """Hold a delivery to its signature and age, in constant time. Raises `RpcError` (`UNAUTHORIZED`)."""
    signed = body
    if config.timestamp_header is not None:
        if stamp is None or not stamp.isascii() or not stamp.isdigit() or len(stamp) > 15:
            raise RpcError("UNAUTHORIZED", "the delivery's timestamp is missing or wrong")
        moment = int(stamp) if len(stamp) > 11 else int(stamp) * 1000
        if abs(now_ms - moment) > config.tolerance_s * 1000:
            raise RpcError("UNAUTHORIZED", "the delivery is too old, or its sender's clock is wrong")
        signed = stamp.encode() + b"." + body
    digest = hmac.new(config.secret.strip().encode(), signed, hashlib.sha256).hexdigest()
    wanted = f"{config.signature_prefix}{digest}".encode()
    if not hmac.compare_digest((signature or "").encode("latin-1", "replace"), wanted):
        raise RpcError("UNAUTHORIZED", "the signature is missing or wrong")


def correlation_of(signal: SignalHook, body: object) -> str | None:
    """The correlation id that a body names: a scalar as trimmed text, else none."""
    value = body if signal.correlation_id_path is None else at(body, signal.correlation_id_path)
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, float) and value.is_integer():
        text = str(int(value))
    elif isinstance(value, (str, int, float)):
        text = str(value)
    else:
        return None
    return correlation(text.strip())


def at(value: object, path: str) -> object:
    """What stands at a dotted path, array positions as numbers; None if nothing does."""
    for name in path.split("."):
        if isinstance(value, list):
            items = cast("list[object]", value)
            is_index = name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(items)
            value = items[int(name)] if is_index else None
        else:
            value = object_of(value).get(name)
    return value


def check_webhook(config: WebhookConfig) -> None:
    """Hold a webhook's config to what can work. Raises `InvalidInput`."""
    if config.signal is not None and not config.signal.name.strip():
        raise InvalidInput("webhook.signal.name must not be blank", {"field": "webhook.signal.name"})
