"""Ray: functions of tasks are computed by workers of a Ray cluster.

A function goes there as Ray's own pickle has it, with the parts of the workflow's program that it uses, by value: a worker
needs what the function imports and this package, not the workflow's file. What happens comes back as a stream of messages
(`ray_worker`), which ends with the result. Ray retries nothing: whether there is another attempt, the run decides.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import pickle
import socket
import sys
import sysconfig
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from smithers.engine.executors.calls import Call
from smithers.engine.executors.ray_worker import Failure, Message, carry_out, versions
from smithers.errors import ExecutorUnavailable, SmithersError, TaskError, TaskNotPortable, WorkerLost

CONNECT_S = 5.0
"""How long to wait for the cluster to answer at all, in seconds."""
GRACE_S = 3.0
"""How long a function that was told to stop may take to do so, in seconds; then its worker is killed."""
WAIT_NOTICE_S = 10.0
"""After so long without a worker it is said that, and why, a task waits, in seconds."""
_UNITS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""How Ray calls what it counts, by the name of the option that asks for it."""
_connecting = threading.Lock()
_pickling = threading.Lock()


class RemoteTraceback(Exception):
    """The cause of what a function has raised elsewhere: its text is the traceback from there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Ray(Protocol):
    """What is used of the module `ray`, which is not installed everywhere."""

    def is_initialized(self) -> bool: ...
    def init(self, address: str | None = None, **options: object) -> object: ...
    def remote(self, function: object) -> _RemoteFunction: ...
    def cancel(self, ref: object, *, force: bool) -> None: ...
    def nodes(self) -> list[dict[str, object]]: ...


class _Pickle(Protocol):
    """What is used of Ray's own pickle."""

    def dumps(self, value: object) -> bytes: ...
    def register_pickle_by_value(self, module: ModuleType) -> None: ...
    def unregister_pickle_by_value(self, module: ModuleType) -> None: ...


class _RemoteFunction(Protocol):
    def options(self, **options: object) -> _RemoteFunction: ...
    def remote(self, *arguments: object) -> AsyncIterator[object]: ...


async def call_on_ray(call: Call) -> object:
    """Make a call on a worker of the cluster; what is raised is as `call_elsewhere` has it."""
    ray = await asyncio.to_thread(connect, call.ray_address)
    stream = await _submitted(ray, call)
    loop = asyncio.get_running_loop()
    notice = loop.call_later(WAIT_NOTICE_S, loop.run_in_executor, None, _say_why, ray, call)
    try:
        async with aclosing(_messages(stream)) as messages:
            async for message in messages:
                match message:
                    case ("started", _):
                        notice.cancel()
                        call.on_start()
                    case ("beat", data):
                        call.on_beat(cast("str | None", data))
                    case ("result", value):
                        return cast(object, pickle.loads(cast(bytes, value)))
                    case (_, failure):
                        raise _raised(cast(Failure, failure))
    except asyncio.CancelledError:
        await _stop(ray, stream)
        raise
    except Exception as error:
        found = _from_ray(call, error)
        if found is None:
            raise
        raise found from error
    finally:
        notice.cancel()
    raise WorkerLost(f"the worker of task {call.attempt.node_id!r} ended without a result")


def connect(address: str | None) -> _Ray:
    """The module `ray`, connected to the cluster, once in a process; a connection that is there already is used. Blocks.

    Args:
        address: `host:port`; without one, the cluster that Ray finds, or a new one of this machine alone.

    Raises `ExecutorUnavailable`.
    """
    try:
        ray = cast(_Ray, importlib.import_module("ray"))
    except ImportError as error:
        raise ExecutorUnavailable(
            "executor='ray' needs Ray, which is not installed: pip install smithers[ray]", {"failure_retryable": False}
        ) from error
    if address is not None and address.startswith("ray://"):
        raise ExecutorUnavailable(
            "SMITHERS_RAY_ADDRESS must be the address of a cluster that this machine is a node of, not of a Ray Client",
            {"setting": "SMITHERS_RAY_ADDRESS", "failure_retryable": False},
        )
    with _connecting:
        if not ray.is_initialized():
            try:
                _connect(ray, address)
            except Exception as error:  # Ray raises what its parts raise: ConnectionError, RuntimeError, ValueError, …
                where = "a Ray cluster" if address is None else f"the Ray cluster at {address}"
                raise ExecutorUnavailable(
                    f"{where} cannot be reached: {error}", {"setting": "SMITHERS_RAY_ADDRESS"}
                ) from error
    return ray


def _connect(ray: _Ray, address: str | None) -> None:
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():  # Ray itself would try for minutes
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    said = logging.getLogger("ray._private.worker")
    level = said.level
    said.setLevel(logging.ERROR)  # it warns that SIGTERM is not its own in this thread, which is as it should be
    try:
        ray.init(address, configure_logging=False, log_to_driver=False)
    finally:
        said.setLevel(level)


async def _submitted(ray: _Ray, call: Call) -> AsyncIterator[object]:
    """The messages of a call that was sent off; one that is cancelled meanwhile is told to stop."""
    sending = asyncio.ensure_future(asyncio.to_thread(_submit, ray, call))
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        with suppress(Exception):
            await _stop(ray, await sending)
        raise


def _submit(ray: _Ray, call: Call) -> AsyncIterator[object]:
    custom = {name: amount for name, amount in call.placement.resources.items() if name not in _UNITS}
    options: dict[str, object] = {k: v for k, v in call.placement.resources.items() if k in _UNITS}
    options |= {"num_returns": "streaming", "max_retries": 0, "name": f"smithers:{call.attempt.node_id}"}
    if custom:
        options["resources"] = custom
    packed = _packed(call)
    try:
        return ray.remote(carry_out).options(**options).remote(packed, versions())
    except ValueError as error:
        raise TaskError(
            f"task {call.attempt.node_id!r}: Ray refuses its resources: {error}", {"failure_retryable": False}
        ) from error


def _packed(call: Call) -> bytes:
    cloudpickle = cast(_Pickle, importlib.import_module("ray.cloudpickle"))
    modules = _own_modules(call)
    with _pickling:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            return cloudpickle.dumps((call.function, call.positional, call.named, call.attempt))
        except Exception as error:
            raise TaskNotPortable(
                f"the function of task {call.attempt.node_id!r} cannot be sent to a worker: {error}. It may use only what can "
                "be pickled: no open files, locks, clients or contexts of a render",
                {"nodeId": call.attempt.node_id},
            ) from error
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


def _own_modules(call: Call) -> list[ModuleType]:
    """The modules of the workflow's program that a worker cannot import: those below the folder that the function's own
    was imported from, and the classes of its arguments."""
    rows = [*call.named.values()]
    for given in call.positional:  # all dependencies in one mapping
        rows += cast("Mapping[str, object]", given).values()
    names = {getattr(call.function, "__module__", None), *(type(row).__module__ for row in rows)}
    folders: set[Path] = set()
    for name in names:
        file = _file_of(sys.modules.get(str(name)))
        if file is not None and not _is_installed(file):
            folders.add(file.parents[str(name).count(".") + (file.name == "__init__.py")])
    return [
        module
        for module in list(sys.modules.values())
        if (file := _file_of(module)) is not None
        and any(file.is_relative_to(folder) for folder in folders)
        and not _is_installed(file)
        and module.__name__ in sys.modules
        and module.__name__ != "__main__"  # by value as it is
    ]


def _file_of(module: object) -> Path | None:
    file = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
    return Path(file) if isinstance(file, str) else None


_PACKAGE = Path(__file__).resolve().parents[2]
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_installed(file: Path) -> bool:
    return file.is_relative_to(_PACKAGE) or any(file.is_relative_to(folder) for folder in _INSTALLED)


async def _messages(stream: AsyncIterator[object]) -> AsyncGenerator[Message]:
    async for ref in stream:
        yield await cast("asyncio.Future[Message]", ref)


async def _stop(ray: _Ray, stream: AsyncIterator[object]) -> None:
    """Tell a function to stop, and kill its worker if it does not in time."""
    with suppress(Exception):  # it may be over, or its worker gone
        await asyncio.to_thread(ray.cancel, stream, force=False)
        try:
            async with asyncio.timeout(GRACE_S):
                async for _ in _messages(stream):
                    pass
        except TimeoutError:
            await asyncio.to_thread(ray.cancel, stream, force=True)


def _raised(failure: Failure) -> BaseException:
    """What a function has raised, as far as this process knows its class."""
    error: BaseException | None = None
    if failure.pickled is not None:
        with suppress(Exception):  # the class is there on the worker only
            error = cast(BaseException, pickle.loads(failure.pickled))
    if error is None and failure.code is not None:
        error = TaskError(failure.message, failure.details, code=failure.code)
    if error is None:
        error = cast("type[Exception]", type(failure.name, (Exception,), {}))(failure.message)
    error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def _from_ray(call: Call, error: Exception) -> SmithersError | None:
    """What an error of Ray's own means; None for others."""
    exceptions = importlib.import_module("ray.exceptions")
    where = f"task {call.attempt.node_id!r}"
    details: dict[str, object] = {"nodeId": call.attempt.node_id}
    lost = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.ObjectLostError)
    if isinstance(error, exceptions.OutOfMemoryError):
        return WorkerLost(f"{where}: Ray killed its worker, because the node was short of memory", details)
    if isinstance(error, lost):
        return WorkerLost(f"{where}: its Ray worker died: {type(error).__name__}", details)
    if isinstance(error, exceptions.RayError):
        return WorkerLost(f"{where} could not be computed on a Ray worker: {error}", details)
    return None


def _say_why(ray: _Ray, call: Call) -> None:
    """Say that a task waits for room, and whether there can be any."""
    wanted = {_UNITS.get(name, name): amount for name, amount in call.placement.resources.items() if amount}
    wanted.setdefault("CPU", 1)
    with suppress(Exception):  # the cluster may be gone by now; the stream says so
        offers = [cast("Mapping[str, float]", node["Resources"]) for node in ray.nodes() if node.get("Alive")]
        fits = any(all(offer.get(name, 0) >= amount for name, amount in wanted.items()) for offer in offers)
        call.on_wait(wanted, fits)
