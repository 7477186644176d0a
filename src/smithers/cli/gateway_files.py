"""Gateway files: which workflow files a gateway serves, under which keys, and loading them again when they have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from smithers.control.workflows import WorkflowFiles
from smithers.engine.admission import workflow_hash
from smithers.errors import InvalidInput, SmithersError

if TYPE_CHECKING:
    from smithers.components.workflow import SmithersWorkflow
    from smithers.gateway.gateway import Gateway

WORKFLOWS = Path(".smithers") / "workflows"


def find_files(root: Path, given: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """Workflow files by key: those that are given, or lie in folders that are; else those of the workspace.

    Args:
        names: `key=file` each; such a file is served under this key, and need not be given besides.

    Raises `InvalidInput`: there is no such file or none at all, a name is not of this form, a key would stand for two.
    """
    named = dict(_named(entry) for entry in names)
    listed = [file for path in given for file in _files_of(path)]
    if not listed and not named:
        listed = _files_of(root / WORKFLOWS) if (root / WORKFLOWS).is_dir() else []
        if not listed:
            raise InvalidInput(f"no workflow to serve: name workflow files, or put them into {root / WORKFLOWS}")
    keys = {file: key for key, file in named.items()}
    found: dict[str, Path] = dict(named)
    for file in listed:
        key = keys.get(file, file.stem)
        if found.setdefault(key, file) != file:
            raise InvalidInput(f"{found[key]} and {file} would both be served as {key!r}; tell them apart with --name")
    return found


def _named(entry: str) -> tuple[str, Path]:
    key, equals, path = entry.partition("=")
    if not key or not equals or not path:
        raise InvalidInput(f"--name: must be KEY=FILE, not {entry!r:.120}")
    return key, _file(Path(path))


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return [file.resolve() for file in sorted(path.glob("*.py")) if not file.name.startswith("_")]
    return [_file(path)]


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InvalidInput(f"there is no workflow file {path}")
    return path.resolve()


class ServedFiles:
    """The workflow files of a gateway.

    Args:
        files: by key.
        db: the database of all their runs; by default each workflow's own.
        tell: told of what somebody should know, in a sentence.
    """

    def __init__(self, files: Mapping[str, Path], db: str | None, tell: Callable[[str], None]) -> None:
        self._files = dict(files)
        self._db = db
        self._tell = tell
        self._loader = WorkflowFiles(None)
        self._served: dict[str, SmithersWorkflow] = {}
        """What each key's file held when it was registered last."""
        self._problems: dict[str, str] = {}

    async def register_all(self, gateway: Gateway, required: frozenset[Path]) -> None:
        """Register all that can be loaded. Raises `WorkflowLoadFailed` for a required file, `InvalidInput` for a key."""
        for key, file in self._files.items():
            try:
                await self._register(gateway, key)
            except SmithersError as error:
                if file in required or isinstance(error, InvalidInput):
                    raise
                self._note_problem(key, error, "it is left out")

    async def refresh(self, gateway: Gateway, key: str) -> None:
        """Register a file again if it has changed. One that cannot be loaded any more is served as it was."""
        if key in self._files:
            try:
                await self._register(gateway, key)
            except SmithersError as error:
                self._note_problem(key, error, "it is served as it was" if key in self._served else "it is left out")

    async def _register(self, gateway: Gateway, key: str) -> None:
        file = self._files[key]
        workflow, _ = await self._loader.load(file)
        before = self._served.get(key)
        if before is workflow:
            return
        workflow_hash(workflow, file)  # now, as the file may change again before its first run
        gateway.register(key, workflow if self._db is None else _with_db(workflow, self._db), entry_file=file)
        self._served[key] = workflow
        self._problems.pop(key, None)
        if before is not None:
            self._tell(f"{key} has changed; the next run of it is of the new version")

    def _note_problem(self, key: str, error: SmithersError, consequence: str) -> None:
        if self._problems.get(key) != error.summary:
            self._problems[key] = error.summary
            self._tell(f"{self._files[key]} cannot be loaded, {consequence}: {error.summary} [{error.error_code}]")

    def status(self) -> dict[str, int]:
        """How many are served, of how many."""
        return {"workflowsLoaded": len(self._served), "workflowsTotal": len(self._files)}


def _with_db(workflow: SmithersWorkflow, db: str) -> SmithersWorkflow:
    found = copy(workflow)
    found.db = db
    return found
