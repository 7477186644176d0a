"""Config: what a gateway is made with. Typed, checked at once; mappings with the contract's keys are taken too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pydantic.alias_generators import to_snake
from pydantic_core import PydanticSerializationError, to_json

from smithers.ambient import SandboxMode
from smithers.errors import InvalidInput
from smithers.gateway.auth.config import AuthConfig
from smithers.gateway.ui.paths import checked_entry, checked_mount

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PROTOCOL: Final = 1
FEATURES: Final = ("streaming", "runs")
DEFAULT_PORT: Final = 7331


@dataclass(frozen=True, slots=True)
class UiConfig:
    """A custom page.

    Attributes:
        entry: the script that draws it, the path of a JavaScript module (`.js`, `.mjs`); None for the built-in console.
        path: where it is mounted; by default `/` for a gateway's page, `/workflows/<key>` for a workflow's, `/console`.
        title: of the page.
        props: handed to the script in the boot config; JSON.

    Raises:
        InvalidInput: one of them does not fit; names it.
    """

    entry: str | Path | None = None
    path: str | None = None
    title: str | None = None
    props: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        if self.entry is not None:
            object.__setattr__(self, "entry", checked_entry(self.entry, "ui"))
        if self.path is not None:
            object.__setattr__(self, "path", checked_mount(self.path, "ui"))
        if self.title is not None and not isinstance(self.title, str):
            raise InvalidInput(f"ui.title must be a string, not {type(self.title).__name__}", {"field": "ui.title"})
        try:
            to_json(dict(self.props))
        except (PydanticSerializationError, TypeError, ValueError) as error:
            raise InvalidInput("ui.props must be an object of JSON values", {"field": "ui.props"}) from error


@dataclass(frozen=True, slots=True)
class SignalHook:
    """Which signal a webhook delivers. Paths are dotted, into the body; None is the whole body."""

    name: str
    correlation_id_path: str | None = None
    run_id_path: str | None = None
    payload_path: str | None = None


@dataclass(frozen=True, slots=True)
class RunHook:
    """Whether a webhook starts a run when no signal was delivered, and with which part of the body."""

    enabled: bool = True
    input_path: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """A webhook of a workflow.

    Attributes:
        secret: the key of HMAC-SHA256 over the raw body.
        delivery_header: names each delivery; the same one twice is answered as before and does nothing.
        timestamp_header: when the sender signed, in seconds or milliseconds; then also part of what is signed
            (`timestamp.body`), and refused when older than `tolerance_s`.
    """

    secret: str = field(repr=False)
    signature_header: str = "x-hub-signature-256"
    signature_prefix: str = "sha256="
    signal: SignalHook | None = None
    run: RunHook = field(default_factory=RunHook)
    delivery_header: str | None = None
    timestamp_header: str | None = None
    tolerance_s: float = 300.0


class RoutesHook(Protocol):
    """A host's own routes: an ASGI app that is asked last. True if it has answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer or decline."""
        ...


MonitorControl = Callable[[Mapping[str, object]], object]
"""A control of a oneshot monitor: called with `runId` and what the request brings; gives JSON, or something to await for it."""
MONITOR_CONTROLS: Final = ("attach", "steer", "restart")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What options are that are not given."""

    bridge: bool = True
    bridge_poll_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Options of a gateway, as `Gateway` documents them."""

    protocol: int = PROTOCOL
    features: tuple[str, ...] = FEATURES
    heartbeat_ms: int = 15_000
    auth: AuthConfig | None = None
    allowed_origins: tuple[str, ...] = ()
    insecure: bool = False
    trusts_any_host: bool = False
    workspace_root: Path | None = None
    identity: Mapping[str, object] = field(default_factory=dict[str, object])
    refresh: Callable[[str], Awaitable[object]] | None = None
    status: Callable[[], Mapping[str, int]] | None = None
    ready: Callable[[], Awaitable[object]] | None = None
    ui: UiConfig | None = None
    operator_ui: UiConfig | None = field(default_factory=UiConfig)
    routes: RoutesHook | None = None
    bridge: bool = True
    bridge_poll_ms: int = 1_000
    max_body_bytes: int = 1_048_576
    max_payload: int = 1_048_576
    max_connections: int = 1_000
    max_pre_auth_connections: int = 64
    auth_deadline_ms: int = 10_000
    event_window_size: int = 10_000
    headers_timeout: int = 30_000
    request_timeout: int = 60_000
    idle_timeout_ms: int = 0
    on_idle: Callable[[], object] | None = None
    max_active_runs: int = 2_000
    max_queued_runs: int = 10_000
    sandbox: SandboxMode = "required"
    max_frames_per_second: int = 5_000
    metrics_need_token: bool = False
    what_happened: Callable[[Mapping[str, object]], Awaitable[str | Mapping[str, object]]] | None = None
    oneshot_monitor: Mapping[str, MonitorControl] | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise InvalidInput(f"{name} must be a whole number above 0, not {value!r}", {"field": name})
        if self.sandbox not in ("required", "off"):
            raise InvalidInput(f"sandbox must be 'required' or 'off', not {self.sandbox!r}", {"field": "sandbox"})
        for name in ("idle_timeout_ms", "max_active_runs", "max_queued_runs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidInput(f"{name} must be a whole number, 0 or more", {"field": name})

    @property
    def sweep_s(self) -> float:
        """How often schedules are looked at, in seconds."""
        return min(max(self.heartbeat_ms, 1_000), 15_000) / 1000


_POSITIVE: Final = (
    "protocol",
    "heartbeat_ms",
    "bridge_poll_ms",
    "max_body_bytes",
    "max_payload",
    "max_connections",
    "max_pre_auth_connections",
    "auth_deadline_ms",
    "event_window_size",
    "headers_timeout",
    "request_timeout",
    "max_frames_per_second",
)


_DEFAULTS: Final = {
    "cliAgentTools": "cli_agent_tools",
    "outOfProcessEventBridge": "bridge",
    "outOfProcessEventBridgePollMs": "bridge_poll_ms",
}


def parse_defaults(value: Mapping[str, object] | None) -> Defaults:
    """The `defaults` of a gateway, in either spelling. Raises `InvalidInput` naming what does not fit."""
    known = _DEFAULTS | {to_snake(name): field for name, field in _DEFAULTS.items()}
    found: dict[str, object] = {}
    for key, item in (value or {}).items():
        if key not in known:
            raise InvalidInput(
                f"defaults has no option {key!r}; it takes {', '.join(_DEFAULTS)}", {"field": "defaults"}
            )
        found[known[key]] = item
    if found.pop("cli_agent_tools", "all") != "all":
        raise InvalidInput(
            "defaults.cliAgentTools can only be 'all': the tools of command-line agents cannot be taken away from here; "
            "say so where each agent is made",
            {"field": "defaults.cliAgentTools"},
        )
    if not isinstance(found.get("bridge", True), bool):
        raise InvalidInput("defaults.outOfProcessEventBridge must be a boolean", {"field": "defaults"})
    return Defaults(**found)  # type: ignore[arg-type]  # the number is looked at with the others


def parse_monitor(value: Mapping[str, MonitorControl] | None) -> Mapping[str, MonitorControl] | None:
    """A oneshot monitor's controls. Raises `InvalidInput`."""
    if value is None:
        return None
    if set(value) != set(MONITOR_CONTROLS) or not all(map(callable, value.values())):
        controls = ", ".join(MONITOR_CONTROLS)
        raise InvalidInput(f"oneshot_monitor must have a function for each of {controls}", {"field": "oneshot_monitor"})
    return dict(value)


def refuse_unbuilt(**given: object) -> None:
    """Refuse options of what this version does not do; None asks for nothing. Raises `InvalidInput`."""
    for name, value in given.items():
        if value is not None:
            raise InvalidInput(f"{name}: this version has no {_UNBUILT[name]}; leave the option out", {"field": name})


_UNBUILT: Final = {"hijack_pty": "terminals of agents", "browser": "browser sessions"}


def parse_ui(value: UiConfig | Mapping[str, object] | bool | None, where: str) -> UiConfig | None:
    """A page's config; True is the built-in console, None and False none. Raises `InvalidInput`."""
    if value is None or value is False:
        return None
    if value is True:
        return UiConfig()
    if isinstance(value, UiConfig):
        return value
    return UiConfig(**_checked(value, UiConfig, where))  # type: ignore[arg-type]  # checked by name just before


def parse_webhook(value: WebhookConfig | Mapping[str, object] | None) -> WebhookConfig | None:
    """A webhook's config. Raises `InvalidInput` naming the field."""
    if value is None or isinstance(value, WebhookConfig):
        return value
    found = _checked(value, WebhookConfig, "webhook")
    if not isinstance(found.get("secret"), str):
        raise InvalidInput("webhook.secret must be a string", {"field": "webhook.secret"})
    signal, run = found.get("signal"), found.get("run")
    if isinstance(signal, Mapping):
        found["signal"] = SignalHook(**_checked(signal, SignalHook, "webhook.signal"))  # type: ignore[arg-type]
    if isinstance(run, Mapping):
        found["run"] = RunHook(**_checked(run, RunHook, "webhook.run"))  # type: ignore[arg-type]
    return WebhookConfig(**found)  # type: ignore[arg-type]


def _checked(value: Mapping[str, object], kind: type, where: str) -> dict[str, object]:
    """A mapping's keys as a class's fields, in either spelling."""
    known = {f.name: f.name for f in fields(kind)} | {_camel(f.name): f.name for f in fields(kind)}
    found: dict[str, object] = {}
    for key, item in value.items():
        name = known.get(key)
        if name is None:
            raise InvalidInput(f"{where} has no option {key!r}; it takes {', '.join(sorted(set(known.values())))}")
        found[name] = item
    return found


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def text_tuple(value: Sequence[str], where: str) -> tuple[str, ...]:
    """A sequence of strings. Raises `InvalidInput`."""
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"{where} must be a list of strings", {"field": where})
    return tuple(value)
