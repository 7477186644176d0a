"""Grant file: tokens that were issued on this machine, by their SHA-256, with what each is granted. Never a token itself.

`smithers token` writes it, a gateway reads it again whenever it has changed. Only its owner may write it: what others can
write is not believed.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import stat
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from smithers.errors import InvalidInput
from smithers.gateway.auth.folder_events import watch_folder
from smithers.gateway.auth.tokens import TokenAuth, TokenGrant
from smithers.jsons import list_of, object_of

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
"""How often the file is looked at where the system does not tell. New tokens need not wait for it, those that are revoked do."""
MAX_BYTES: Final = 4_194_304
MAX_GRANTS: Final = 10_000
KEPT_MS: Final = 30 * 86_400_000
"""How long a grant that has ended is still listed."""
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant of the file.

    Attributes:
        digest: the SHA-256 of the token in hex.
    """

    digest: str
    grant: TokenGrant

    def has_ended(self, now_ms: int) -> bool:
        """Whether the token is refused by now."""
        ends = (self.grant.expires_at_ms, self.grant.revoked_at_ms)
        return any(moment is not None and moment <= now_ms for moment in ends)


class GrantFile:
    """The grants of one gateway. All methods raise `InvalidInput` for a file that cannot be trusted or understood."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> tuple[int, int, int] | None:
        """Differs whenever the file has changed; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def read(self) -> list[StoredGrant]:
        """Every grant, oldest first; none where there is no file."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidInput(f"cannot read {self.path}: {error.strerror or error}") from error
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise InvalidInput(f"{self.path} can be written by others than its owner; its grants are not believed")
            text = file.read(MAX_BYTES + 1)
        return _parsed(text, self.path)

    def add(self, digest: str, grant: TokenGrant, now_ms: int) -> None:
        """Store a grant; durable on return. Forgets those that have ended long ago."""
        with self._locked():
            kept = [each for each in self.read() if not each.has_ended(now_ms - KEPT_MS) and each.digest != digest]
            if len(kept) >= MAX_GRANTS:
                raise InvalidInput(f"{self.path} holds {len(kept)} grants; revoke some and try again in a month")
            self._write([*kept, StoredGrant(digest, grant)])

    def revoke(self, names: Iterable[str] | None, now_ms: int) -> list[str]:
        """Refuse tokens from now on, by id or digest; None for all. Gives the ids of those that were good until now."""
        wanted = None if names is None else set(names)
        revoked: list[str] = []
        with self._locked():
            found = self.read()
            for at, each in enumerate(found):
                is_meant = wanted is None or not wanted.isdisjoint((each.grant.token_id, each.digest))
                if is_meant and not each.has_ended(now_ms):
                    found[at] = replace(each, grant=replace(each.grant, revoked_at_ms=now_ms))
                    revoked.append(each.grant.token_id or each.digest[:16])
            if revoked:
                self._write(found)
        return revoked

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Be the only one who changes the file; locks its folder, so that nothing is left behind."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise InvalidInput(f"cannot use {self.path.parent}: {error.strerror or error}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _write(self, grants: Iterable[StoredGrant]) -> None:
        text = json.dumps({"version": 1, "grants": [_wire(each) for each in grants]}, indent=1)
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        new.replace(self.path)


class GrantFollower:
    """Keeps the grants of an authentication as a file has them, beside those that it was made with.

    A file that cannot be read leaves them as they were; one that is gone takes them away.

    Raises `InvalidInput`: the file cannot be read at first.
    """

    def __init__(self, auth: TokenAuth, file: GrantFile) -> None:
        self._auth = auth
        self._file = file
        self._seen = file.stamp()
        self._load()
        auth.on_unknown = self.look

    def _load(self) -> None:
        self._auth.load({each.digest: each.grant for each in self._file.read()})

    def look(self) -> None:
        """Read the file again if it has changed."""
        stamp = self._file.stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._load()
        except InvalidInput as error:
            log.warning("the grants of this workspace stay as they were", extra={"reason": error.summary})

    async def run(self) -> None:
        """Look whenever the file may have changed, until cancelled."""
        changed = asyncio.Event()
        while True:
            folder = self._file.path.parent
            watched = folder if folder.is_dir() else folder.parent  # where it would come to be
            end = watch_folder(watched, changed.set)
            if end is not None and watched != folder and folder.is_dir():
                end()  # it came before the watch did, which tells nothing of what comes into it
                continue
            self.look()  # what has happened before the watch
            try:
                async with asyncio.timeout(LOOK_S if end is None else None):
                    await changed.wait()
            except TimeoutError:
                pass
            finally:
                if end is not None:
                    end()
            changed.clear()
            self.look()


def _wire(each: StoredGrant) -> dict[str, object]:
    grant = each.grant
    return {
        "sha256": each.digest,
        "tokenId": grant.token_id,
        "role": grant.role,
        "scopes": list(grant.scopes),
        "userId": grant.user_id,
        "issuedAtMs": grant.issued_at_ms,
        "expiresAtMs": grant.expires_at_ms,
        "revokedAtMs": grant.revoked_at_ms,
    }


def _parsed(text: bytes, path: Path) -> list[StoredGrant]:
    try:
        document = object_of(from_json(text)) if len(text) <= MAX_BYTES else {}
    except ValueError as error:
        raise InvalidInput(f"{path} is no file of grants") from error
    if document.get("version") != 1 or not isinstance(document.get("grants"), list):
        raise InvalidInput(f"{path} is no file of grants of this version")
    return [_grant_of(object_of(entry), path) for entry in list_of(document["grants"])]


def _grant_of(entry: Mapping[str, object], path: Path) -> StoredGrant:
    digest = entry.get("sha256")
    if not isinstance(digest, str) or len(digest) != 64 or not _HEX.issuperset(digest):
        raise InvalidInput(f"{path}: sha256 must be 64 hex digits")
    given = {key: value for key, value in entry.items() if key != "sha256"}
    return StoredGrant(digest, TokenGrant.of(given, str(path)))
