"""Git: runs git commands so that nothing in a repository can make them do more than they say.

Two ways. `Scratch` is for everything that looks at files: a git directory of our own, with the repository's objects and
nothing else of it, so its configuration, hooks, filters and file monitor are not there to be run. `of_repository` is for
what is about refs, which live in the repository: its configuration is read, and what could run something is overridden.

Where a repository is, and what it has checked out, is in `repository.py`, which starts no process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple
from weakref import WeakMethod

from smithers.errors import VcsError, VcsNotFound
from smithers.settings import environment_with
from smithers.vcs.repository import Repository

TIMEOUT_S: Final = 120.0
"""The longest that one git command may take."""
MAX_MESSAGE: Final = 512
_CHUNK: Final = 1 << 16

_NEVER_RUN: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    "core.sshCommand=false",
    "core.askPass=true",
    "core.pager=cat",
    "core.logAllRefUpdates=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "submodule.recurse=false",
    "diff.external=",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.allow=never",
)
_KEPT_KEYS: Final = frozenset(
    (
        "core.filemode",
        "core.symlinks",
        "core.ignorecase",
        "core.precomposeunicode",
        "core.autocrlf",
        "core.eol",
        "core.trustctime",
        "core.checkstat",
    )
)
"""How files and what is stored of them belong together; harmless, and wrong to leave out."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9]{1,16}")


_timed: Final[list[WeakMethod[Callable[[str, float], None]]]] = []


def time_commands(told: Callable[[str, float], None]) -> None:
    """From now on tell how long each git command of this process takes: `vcs.duration_ms`, and the milliseconds.

    Args:
        told: a method, called in whichever thread; forgotten with its object.
    """
    _timed.append(WeakMethod(told))


def _tell_time(milliseconds: float) -> None:
    for each in list(_timed):
        told = each()
        if told is not None:
            told("vcs.duration_ms", milliseconds)
        elif each in _timed:
            _timed.remove(each)


class Finished(NamedTuple):
    """How a command ended. `size` is how much it wrote, of which `stdout` may be the beginning only."""

    code: int
    stdout: bytes
    stderr: bytes
    size: int


def of_repository(
    repository: Repository, *arguments: str, git_dir: Path | None = None, fails: bool = True, data: bytes | None = None
) -> tuple[int, str]:
    """Run a command about refs with the repository's own git directory: its exit code and what it wrote.

    Args:
        git_dir: that of another working tree of the same repository.
        fails: whether to raise for an exit code other than 0.
        data: given to it on standard input.

    Raises:
        VcsNotFound: git is not installed.
        VcsError: it failed, or took too long.
    """
    environment = _environment(GIT_DIR=str(git_dir or repository.git_dir), GIT_OPTIONAL_LOCKS="0")
    done = _run([*_git(), *arguments], environment, repository.common_dir, data)
    if done.code and fails:
        raise _failure(arguments, done)
    return done.code, done.stdout.decode("utf-8", "surrogateescape")


class Scratch:
    """A git directory of our own over a repository's objects and a working tree; a context manager, gone at its end.

    Args:
        repository: whose objects are read and written.
        top: the working tree's folder; the repository's own by default.
        index: an index to work on in place; by default a private copy of the repository's, which tells git what has not
            changed since that was written.
        as_binary: have all files count as binary.

    Raises:
        VcsNotFound, VcsError.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        top: Path | None = None,
        index: Path | None = None,
        as_binary: bool = False,
    ) -> None:
        self.repository = repository
        top = top or repository.top
        self.top = top if top.is_dir() else repository.common_dir  # a worktree may be gone, what it held is not
        self._folder = Path(tempfile.mkdtemp(prefix="smithers-git-"))
        self.index = index or self._folder / "index"
        self._has_own_index = index is None
        try:
            self._lay_out(as_binary)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lay_out(self, as_binary: bool) -> None:
        folder, repository = self._folder, self.repository
        (folder / "refs").mkdir()
        (folder / "info").mkdir()
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        # the highest of all attributes: no filter runs, whatever the tree's own .gitattributes name
        (folder / "info" / "attributes").write_text("* -filter -diff\n" if as_binary else "* -filter\n")
        excluded = [repository.excludes, "/.jj/\n" if repository.kind == "jj" else ""]
        (folder / "info" / "exclude").write_text("".join(excluded), errors="surrogateescape")
        is_sha256 = repository.hash_length == 64
        lines = ["[core]", f"repositoryformatversion = {int(is_sha256)}", "bare = false"]
        if is_sha256:
            lines += ["[extensions]", "objectformat = sha256"]
        (folder / "config").write_text("\n".join(lines) + "\n")

    def seed(self) -> bool:
        """Begin with a copy of the repository's index. False if it has none."""
        source = self.repository.git_dir / "index"
        if not self._has_own_index or self.repository.kind == "jj":
            return False
        try:
            shutil.copyfile(source, self.index)
            found = source.stat()
        except OSError:
            return False
        # its time is when it was written: what was changed in that very moment is compared by content
        os.utime(self.index, ns=(found.st_atime_ns, found.st_mtime_ns))
        for shared in self.repository.git_dir.glob("sharedindex.*"):
            (self._folder / shared.name).symlink_to(shared)
        return True

    def git(
        self,
        *arguments: str,
        paths: Iterable[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
    ) -> bytes:
        """Run a command; what it wrote.

        Args:
            paths: given to it on standard input, each ended by a zero byte.
            environment: further variables.
            ok: exit codes that are no failure.

        Raises:
            VcsNotFound, VcsError.
        """
        data = None if paths is None else b"".join(path + b"\0" for path in paths)
        done = _run([*_git(), *self._kept(), *arguments], self._variables(environment), self.top, data)
        if done.code not in ok:
            raise _failure(arguments, done)
        return done.stdout

    def measured(self, *arguments: str, limit: int) -> Finished:
        """Run a command and keep the first `limit` bytes of what it writes, counting the rest.

        Raises:
            VcsNotFound, VcsError.
        """
        done = _run([*_git(), *self._kept(), *arguments], self._variables(None), self.top, None, limit=limit)
        if done.code:
            raise _failure(arguments, done)
        return done

    def _kept(self) -> list[str]:
        return [part for key, value in self.repository.habits for part in ("-c", f"{key}={value}")]

    def _variables(self, more: Mapping[str, str] | None) -> dict[str, str]:
        repository = self.repository
        return _environment(
            GIT_DIR=str(self._folder),
            GIT_WORK_TREE=str(self.top),
            GIT_OBJECT_DIRECTORY=str(repository.common_dir / "objects"),
            GIT_SHALLOW_FILE=str(repository.common_dir / "shallow"),
            GIT_INDEX_FILE=str(self.index),
            GIT_CONFIG_GLOBAL=os.devnull,
            GIT_CONFIG_NOSYSTEM="1",
            GIT_ATTR_NOSYSTEM="1",
            **(more or {}),
        )


def habits_of(git_dir: Path) -> tuple[tuple[str, str], ...]:
    """What a repository's and the user's configuration say of how files are stored and ignored, and nothing else of it."""
    environment = _environment(GIT_DIR=str(git_dir))
    done = _run([*_git(), "config", "--list", "-z", "--show-scope", "--includes"], environment, git_dir, None)
    if done.code:
        return ()
    found: dict[str, str] = {}
    words = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    for scope, entry in zip(words[::2], words[1::2], strict=False):
        key, _, value = entry.partition("\n")
        is_habit = key in _KEPT_KEYS and _PLAIN.fullmatch(value) is not None
        if is_habit or (
            key == "core.excludesfile" and scope in ("system", "global")
        ):  # a repository's is not the user's
            found[key] = value
    return tuple(found.items())


def _git() -> list[str]:
    return ["git", *(part for setting in _NEVER_RUN for part in ("-c", setting))]


def _environment(**values: str) -> dict[str, str]:
    """This process's variables without git's own, and with what keeps git to itself."""
    kept = {name: value for name, value in environment_with().items() if not name.startswith("GIT_")}
    quiet = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EDITOR": "true",
        "LC_ALL": "C",
    }
    return {**kept, **quiet, **values}


def _run(
    argv: Sequence[str], environment: Mapping[str, str], cwd: Path, data: bytes | None, limit: int | None = None
) -> Finished:
    began = time.perf_counter()
    try:
        with (
            tempfile.TemporaryFile() as problems,
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=problems,
                cwd=cwd,
                env=dict(environment),
                start_new_session=True,
            ) as process,
        ):
            watchdog = threading.Timer(TIMEOUT_S, process.kill)
            watchdog.daemon = True
            watchdog.start()
            try:
                stdout, size = _exchange(process, data, limit)
            except BaseException:
                process.kill()
                raise
            finally:
                process.wait()
                watchdog.cancel()
            problems.seek(0)
            if process.returncode < 0:
                raise VcsError(
                    f"git {_name_of(argv)} was stopped: it took longer than {TIMEOUT_S:g} seconds, or was killed"
                )
            return Finished(process.returncode, stdout, problems.read(), size)
    except FileNotFoundError as error:
        if not cwd.is_dir():
            raise VcsError(f"{str(cwd)!r} is not there any more", {"path": str(cwd)}) from error
        raise VcsNotFound("git is not installed here; install it, or work without diffs and checkpoints") from error
    except OSError as error:
        raise VcsError(f"git could not be run: {error}") from error
    finally:
        _tell_time((time.perf_counter() - began) * 1000)


def _exchange(process: subprocess.Popen[bytes], data: bytes | None, limit: int | None) -> tuple[bytes, int]:
    """Write its input, read its output; at most `limit` bytes of that are kept."""
    if limit is None:
        stdout, _ = process.communicate(data)
        return stdout, len(stdout)
    found, size, pipe = bytearray(), 0, process.stdout
    assert pipe is not None
    while chunk := _read(pipe):
        size += len(chunk)
        if len(found) < limit:
            found += chunk[: limit - len(found)]
    return bytes(found), size


def _read(pipe: IO[bytes]) -> bytes:
    return pipe.read(_CHUNK)


def _failure(arguments: Sequence[str], done: Finished) -> VcsError:
    said = done.stderr.decode("utf-8", "replace").strip() or f"it ended with exit code {done.code}"
    return VcsError(f"git {arguments[0]} failed: {said}"[:MAX_MESSAGE], {"exitCode": done.code})


def _name_of(argv: Sequence[str]) -> str:
    words = iter(argv[1:])
    for word in words:
        if word == "-c":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""
