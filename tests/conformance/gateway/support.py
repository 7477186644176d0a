"""What the gateway's conformance tests share: workflows, a gateway in a thread of its own, clients for HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast
from uuid import uuid4

import httpx2
from tests.conformance.gateway.contract import hold_frame, status_of
from tests.conformance.gateway.flows import workflows
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from smithers import Settings
from smithers.control.control import Control
from smithers.gateway.auth.config import TokenAuth
from smithers.gateway.gateway import Gateway
from smithers.store.sql import reads

T = TypeVar("T")
Json = dict[str, Any]
Stored = dict[str, list[Any]]
ROOT = "root-token"
PATIENCE_S = 60.0


class Answer(NamedTuple):
    """An answer over whichever transport; over a WebSocket the status is what the code stands for."""

    status: int
    frame: Json

    @property
    def code(self) -> str | None:
        """The error's code, if it is one."""
        return None if self.frame["ok"] else str(self.frame["error"]["code"])

    @property
    def payload(self) -> Any:
        """What it answers. Fails for an error."""
        assert self.frame["ok"], self.frame["error"]
        return self.frame["payload"]


def _dialled(url: str, **options: Any) -> Any:
    dial: Callable[..., Any] = connect
    return dial(url, compression=None, max_size=None, max_queue=None, open_timeout=PATIENCE_S, **options)


class Socket:
    """A WebSocket that has its challenge behind it."""

    def __init__(self, url: str, **options: Any) -> None:
        self._open = _dialled(url.replace("http", "ws", 1), **options)
        self.raw: ClientConnection = self._open.__enter__()
        self.events: list[Json] = []
        self._answers: dict[str, Json] = {}
        self.challenge = self.read()

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(None, None, None)

    def read(self, timeout: float = PATIENCE_S) -> Json:
        """The next frame, held to the contract's shape."""
        frame = cast("Json", json.loads(self.raw.recv(timeout)))
        hold_frame(
            frame, {"event": "event", "res": "responseOk" if frame.get("ok") else "responseError"}[frame["type"]]
        )
        if frame["type"] == "event":
            self.events.append(frame)
        else:
            self._answers[frame["id"]] = frame
        return frame

    def send(self, method: str, params: object = None, *, text: str | None = None) -> str:
        """Send a request; its id. With `text`, that as the JSON of the parameters."""
        request_id = str(uuid4())
        self.raw.send(_envelope(method, params, text, request_id, socket=True))
        return request_id

    def answer(self, *request_ids: str) -> Answer:
        """The answer to a request, under whichever of these ids it comes."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := [name for name in request_ids if name in self._answers]):
            self.read(deadline - time.monotonic())
        frame = self._answers.pop(found[0])
        return Answer(200 if frame["ok"] else status_of(frame["error"]["code"]), frame)

    def call(self, method: str, params: object = None, *, text: str | None = None) -> Answer:
        """Call a method."""
        request_id = self.send(method, params, text=text)
        return self.answer(request_id, "invalid")  # what is no JSON names nobody

    def connect(self, token: str | None = None, **more: object) -> Answer:
        """Authenticate."""
        params: Json = {
            "minProtocol": 1,
            "maxProtocol": 1,
            "client": {"id": "t", "version": "1", "platform": "x"},
            **more,
        }
        return self.call("connect", params if token is None else {**params, "auth": {"token": token}})

    def event(self, name: str, fits: Callable[[Json], bool] = lambda _payload: True) -> Json:
        """The payload of the first pushed event of this name that fits, of before or yet to come."""
        deadline = time.monotonic() + PATIENCE_S
        seen = 0
        while True:
            for frame in self.events[seen:]:
                if frame["event"] == name and fits(frame["payload"]):
                    return cast("Json", frame["payload"])
            seen = len(self.events)
            self.read(deadline - time.monotonic())

    def until_closed(self) -> int:
        """The code that the other side closes with."""
        try:
            while True:
                self.read()
        except ConnectionClosed as closed:
            return 1006 if closed.rcvd is None else closed.rcvd.code


def _envelope(method: str, params: object, text: str | None, request_id: str, *, socket: bool = False) -> str:
    head: Json = {"id": request_id, "method": method}
    if socket:
        head["type"] = "req"
    if params is None and text is None:
        return json.dumps(head)
    return f'{json.dumps(head)[:-1]}, "params": {json.dumps(params) if text is None else text}}}'


TABLES = (
    "_smithers_runs",
    "_smithers_run_specs",
    "_smithers_events",
    "_smithers_approvals",
    "_smithers_signals",
    "_smithers_cron",
    "_smithers_docs",
    "_smithers_memory_facts",
    "_smithers_scorers",
)


_UNDER_WAY = """
SELECT 1 FROM _smithers_runs AS run WHERE CASE run.status
    WHEN 'running' THEN run.run_id NOT IN
        (SELECT run_id FROM _smithers_nodes WHERE node_id = 'nap' AND state = 'in-progress')
    WHEN 'waiting-approval' THEN run.cancel_requested_at_ms IS NOT NULL
        OR run.run_id NOT IN (SELECT run_id FROM _smithers_approvals WHERE status = 'requested')
    WHEN 'waiting-event' THEN run.cancel_requested_at_ms IS NOT NULL
        OR run.run_id IN (SELECT run_id FROM _smithers_signals)
    END
"""
"""Runs that are about to go on: with a task other than the endless one, or because of what they were just told."""


def _are_settled(connection: reads.Session) -> bool:
    return next(iter(connection.execute(_UNDER_WAY)), None) is None


def _everything(connection: reads.Session) -> Stored:
    found: Stored = {}
    for table in TABLES:
        names = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
        kept = ", ".join(name for name in names if name != "heartbeat_at_ms")
        found[table] = sorted(map(list, connection.execute(f"SELECT {kept} FROM {table}")), key=repr)
    return found


TRANSPORTS = ("bare", "envelope", "rpc", "socket")


class House:
    """A gateway that listens, in a thread with its own event loop, and its clients.

    Args:
        options: of the `Gateway`.
        register: what is registered, by key: `{workflow: …, **options}`; all test workflows by default.
    """

    def __init__(
        self,
        folder: Path,
        register: Mapping[str, Mapping[str, Any]] | None = None,
        prepare: Callable[[Gateway], object] = lambda _gateway: None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.db = folder / "gateway.db"
        work = folder / "work"
        work.mkdir(exist_ok=True)
        settings = Settings(
            durability="normal", accounts_file=folder / "accounts.json", heartbeat_ms=500, root_dir=work
        )
        self._options: dict[str, Any] = {
            "settings": settings,
            "workspace_root": folder,
            "max_frames_per_second": 100_000,
            **options,
        }
        self._register = register or {key: {"workflow": flow} for key, flow in workflows(self.db).items()}
        self._prepare = prepare
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.gateway: Gateway
        self.url = ""
        self.headers: dict[str, str] = {}
        self._socket: Socket | None = None
        self._made = 0

    def __enter__(self) -> House:
        self._thread.start()
        self.run(self._listen())
        auth = self._options.get("auth")
        if auth is not None:
            self.headers = {"authorization": f"Bearer {ROOT}"}
        self.http = httpx2.Client(base_url=self.url, headers=self.headers, timeout=PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.__exit__(None, None, None)
        self.http.close()
        self.run(self.gateway.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    async def _listen(self) -> None:
        self.gateway = Gateway(**self._options)
        self._prepare(self.gateway)
        for key, options in self._register.items():
            self.gateway.register(key, **options)
        self.url = (await self.gateway.listen(port=0, host="127.0.0.1")).url

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """Run something in the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(PATIENCE_S)

    def do(self, call: Callable[[], T]) -> T:
        """Call something in the gateway's event loop."""

        async def job() -> T:
            return call()

        return self.run(job())

    # ── what is stored ─────────────────────────────────────────────────────────────────────────────────────────────
    #
    # Read and written through the gateway's own store: another library that opened the file in this process would take the
    # store's locks away when it closes it.

    @property
    def behind(self) -> Any:
        """The rooms behind the gateway, for what no door leads to."""
        gateway: Any = self.gateway
        return gateway._house

    @property
    def control(self) -> Control:
        """The requests to the gateway's database."""
        return cast("Control", self.behind.services.hosting.places[0].control)

    def stored(self) -> Stored:
        """Everything that a request may have changed, but for signs of life; once no run is under way but the endless."""
        eventually(lambda: self.control.store.read(_are_settled) or None, "runs come to rest")
        return self.control.store.read(_everything)

    def changes_since(self, before: Stored) -> Stored:
        """Rows that were not stored like this before, and a count of those that are gone, by table."""
        found: Stored = {}
        for table, rows in self.stored().items():
            new, gone = [r for r in rows if r not in before[table]], [r for r in before[table] if r not in rows]
            if new or gone:
                found[table] = [*new, len(gone)]
        return found

    # ── calling ────────────────────────────────────────────────────────────────────────────────────────────────────

    def socket(self, token: str | None = None, **more: object) -> Socket:
        """A WebSocket that has connected; to be closed."""
        socket = Socket(self.url)
        socket.connect(token or (ROOT if self.headers else None), **more).payload  # noqa: B018  # fails for an error
        return socket

    def post(self, path: str, text: str, headers: Mapping[str, str] | None = None) -> Answer:
        """A response frame over HTTP, held to the contract's shape and headers."""
        found = self.http.post(path, content=text, headers={"content-type": "application/json", **(headers or {})})
        check_headers(found)
        frame = found.json()
        hold_frame(frame, "responseOk" if frame["ok"] else "responseError")
        return Answer(found.status_code, frame)

    def call(self, method: str, params: object = None, transport: str = "bare", *, text: str | None = None) -> Answer:
        """Call a method over a transport; `text` is the JSON of the parameters."""
        if transport == "socket":
            if self._socket is None:
                self._socket = self.socket()
            return self._socket.call(method, params, text=text)
        request_id = str(uuid4())
        if transport == "bare":
            body = text if text is not None else json.dumps(params or {})
            return self.post(f"/v1/rpc/{method}", body, {"x-request-id": request_id})
        path = "/rpc" if transport == "rpc" else f"/v1/rpc/{method}"
        answer = self.post(path, _envelope(method, params, text, request_id))
        assert text is not None or answer.frame["id"] == request_id
        return answer

    def ok(self, method: str, **params: object) -> Any:
        """What a method answers. Fails for an error."""
        return self.call(method, params).payload

    # ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def name(self, stem: str = "r") -> str:
        """An id that nobody has yet."""
        self._made += 1
        return f"{stem}-{self._made}-{uuid4().hex[:6]}"

    def start(self, workflow: str, input: Mapping[str, object] | None = None, until: str | None = None) -> str:
        """Start a run and wait until it is so far."""
        found = self.ok("launchRun", workflow=workflow, input=dict(input or {}))["runId"]
        if until is not None:
            self.until(found, until)
        return str(found)

    def status(self, run_id: str) -> str:
        """A run's status."""
        return str(self.ok("getRun", runId=run_id)["status"])

    def until(self, run_id: str, *statuses: str) -> str:
        """Wait until a run has one of these statuses."""
        return eventually(
            lambda: found if (found := self.status(run_id)) in statuses else None, f"{run_id}: {statuses}"
        )


def check_headers(answer: httpx2.Response) -> None:
    """What every JSON answer carries."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-smithers-api-version"] == "v1"


def eventually(look: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
    """What `look` finds, as soon as it finds something; for what nobody tells of."""
    deadline = time.monotonic() + patience_s
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.005)
    return found


def tokens(grants: Mapping[str, Sequence[str]], **more: object) -> TokenAuth:
    """Tokens with these scopes, named after themselves, and one that may do everything."""
    found: dict[str, dict[str, object]] = {
        name: {"role": "user", "scopes": list(scopes), "userId": name, **more} for name, scopes in grants.items()
    }
    return TokenAuth({ROOT: {"role": "operator", "scopes": ["*"], "userId": "root"}, **found})


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {token}"}


@contextmanager
def house_of(folder: Path, **options: Any) -> Generator[House]:
    """A gateway for as long as this lasts."""
    with House(folder, **options) as house:
        yield house


def sse_frames(lines: Iterator[str]) -> Iterator[Json]:
    """The frames of an event stream: `event`, `data` decoded, and `id` where there is one."""
    frame: Json = {}
    for line in lines:
        if line.startswith("data: "):
            frame["data"] = json.loads(line[6:])
        elif line.startswith(("id: ", "event: ")):
            name, _, value = line.partition(": ")
            frame[name] = value
        elif not line and frame:
            yield frame
            frame = {}
