"""Gateway state: the file by which the gateway of a workspace is found, and the lock that there is one of them at most.

Both lie in a folder of the temporary one that belongs to this user alone; what somebody else has put in its place is refused.
Whoever holds the lock is the gateway; the file says where it is reached. A process that dies leaves the file but not the
lock, so a file alone proves nothing: readers ask the gateway itself who it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from smithers.errors import SmithersError
from smithers.records import dataclass

if TYPE_CHECKING:
    from types import TracebackType

FOLDER = "smithers-gateway"
MAX_BYTES = 65_536
GRANTS = Path(".smithers") / "gateway-tokens.json"
"""What tokens were issued for a workspace's gateway, from the workspace's folder."""
_MARKS = (Path(".smithers") / "workflows", Path("smithers.db"))
"""What a workspace's folder holds, either of them."""


class GatewayStateUnsafe(SmithersError):
    """The place of the state files belongs to somebody else, or is open to them."""

    code = "GATEWAY_STATE_UNSAFE"


@dataclass(frozen=True)
class GatewayState:
    """A gateway, as its file tells of it.

    Attributes:
        token: lets this user in while the gateway runs; never one that an operator has chosen. None where none is needed.
    """

    pid: int
    host: str
    port: int
    url: str
    token: str | None
    workspace_root: str
    backend: str
    version: str
    protocol: int
    started_at_ms: int

    def wire(self) -> dict[str, object]:
        """As it is stored."""
        return {
            "pid": self.pid,
            "host": self.host,
            "port": self.port,
            "url": self.url,
            "token": self.token,
            "workspaceRoot": self.workspace_root,
            "backend": self.backend,
            "version": self.version,
            "protocol": self.protocol,
            "startedAtMs": self.started_at_ms,
        }


def workspace_root(start: Path) -> Path:
    """The nearest folder, from this one up, with `.smithers/workflows` or a `smithers.db`; this one, if there is none."""
    start = start.resolve()
    return next((f for f in (start, *start.parents) if any((f / mark).exists() for mark in _MARKS)), start)


class StateFile:
    """The state file of a workspace's gateway, and its lock.

    Raises `GatewayStateUnsafe` where the folder cannot be trusted, in all methods.
    """

    def __init__(self, root: Path, temporary: Path | None = None) -> None:
        self._folder = _folder(temporary or Path(tempfile.gettempdir()))
        self._name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._folder / f"{self._name}.json"

    def claim(self) -> bool:
        """Become the gateway of this workspace; False if there is one. Kept until `release`, or the process ends."""
        if self._lock is not None:
            return True
        folder = self._open_folder()
        try:
            handle = os.open(f"{self._name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def write(self, state: GatewayState) -> None:
        """Tell where the gateway is; nobody ever reads half of it."""
        folder = self._open_folder()
        try:
            new = f"{self._name}.{os.getpid()}.new"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            handle = os.open(new, flags, 0o600, dir_fd=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump(state.wire(), file)
            os.replace(new, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def read(self) -> GatewayState | None:
        """What the file tells; None if there is none, or nothing that can be understood."""
        try:
            folder = self._open_folder(create=False)
        except FileNotFoundError:
            return None
        try:
            handle = os.open(self.path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError:
            return None
        finally:
            os.close(folder)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                return None
            return _parsed(file.read(MAX_BYTES))

    def release(self) -> None:
        """Be the gateway no more, and forget where it was."""
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> StateFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open_folder(self, *, create: bool = True) -> int:
        if create:
            try:
                self._folder.mkdir(mode=0o700)
            except FileExistsError:
                pass
            except OSError as error:
                raise GatewayStateUnsafe(f"cannot make {self._folder}: {error.strerror or error}") from error
        try:
            handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise GatewayStateUnsafe(f"{self._folder} is no folder of this user") from error
        found = os.fstat(handle)
        if found.st_uid != os.geteuid():
            os.close(handle)
            raise GatewayStateUnsafe(f"{self._folder} belongs to another user")
        if found.st_mode & 0o077:
            os.fchmod(handle, 0o700)
        return handle


def _folder(temporary: Path) -> Path:
    """Where this user's files are: on a machine of several users, only the first one gets the short name."""
    found = temporary / FOLDER
    try:
        is_ours = found.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        is_ours = True
    return found if is_ours else temporary / f"{FOLDER}-{os.geteuid()}"


def _parsed(data: bytes) -> GatewayState | None:
    try:
        value: object = json.loads(data)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    found = cast("Mapping[str, object]", value)
    texts = [found.get(name) for name in ("host", "url", "workspaceRoot", "backend", "version")]
    numbers = [found.get(name) for name in ("pid", "port", "protocol", "startedAtMs")]
    token = found.get("token")
    host, url, root, backend, version = (text if isinstance(text, str) else None for text in texts)
    pid, port, protocol, started = (n if isinstance(n, int) and not isinstance(n, bool) else None for n in numbers)
    if host is None or url is None or root is None or backend is None or version is None:
        return None
    if pid is None or port is None or protocol is None or started is None or pid <= 1:
        return None
    return GatewayState(
        pid, host, port, url, token if isinstance(token, str) else None, root, backend, version, protocol, started
    )
