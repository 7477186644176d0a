"""Loading: from a workflow file to its `SmithersWorkflow`, and the hash by which a resume notices that the source changed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from smithers.components.workflow import SmithersWorkflow
from smithers.errors import InvalidInput, SmithersError, WorkflowLoadFailed

SETTLED_S = 2.0
"""A file that was changed less than this ago is compiled anew: what Python has kept of it may be of the moment before, and
of the same size, which is all that it looks at."""

_lock = threading.Lock()
_parsing = threading.Lock()
"""CPython 3.11 counts the depth of a syntax tree wrongly when two threads make one at once."""


def load_workflow(path: str | Path, *, approved_root: object = None, name: str | None = None) -> SmithersWorkflow:
    """Import a workflow file afresh and find its workflow: the only one, or the one named `workflow` (or `name`, whether
    that is what the file calls it or its function's own name).

    Modules beside the file can be imported by it, and are imported afresh as well.

    Raises:
        WorkflowLoadFailed: the file is not there, cannot be imported, or holds no (single) workflow.
        InvalidInput: the file is not below `approved_root`.
    """
    file = Path(path).resolve()
    if approved_root is not None and not file.is_relative_to(Path(str(approved_root)).resolve()):
        raise InvalidInput(f"workflow {path} is not below {approved_root}", code="WORKFLOW_PATH_OUTSIDE_ROOT")
    if not file.is_file():
        raise WorkflowLoadFailed(f"there is no workflow file {path}", {"path": str(path)})
    module = _import(file)
    found = {k: v for k, v in vars(module).items() if isinstance(v, SmithersWorkflow)}
    wanted = name or "workflow"
    if wanted in found:
        return found[wanted]
    own = [v for v in dict.fromkeys(found.values()) if v.source_path == file] or list(dict.fromkeys(found.values()))
    if name is not None:
        own = [v for v in own if v.function_name.replace("_", "-") == name.replace("_", "-")]
        if len(own) == 1:
            return own[0]
    if name is not None or not own:
        hint = "decorate a function with the decorator that create_smithers(…) returns"
        raise WorkflowLoadFailed(f"{path} holds no workflow{f' named {name!r}' if name else ''}; {hint}")
    if len(own) > 1:
        names = ", ".join(sorted(k for k, v in found.items() if v in own))
        raise WorkflowLoadFailed(f"{path} holds several workflows ({names}); name the main one 'workflow'")
    return own[0]


def _import(file: Path) -> ModuleType:
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    name = f"smithers_workflow_{digest}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    if spec is None or spec.loader is None or file.suffix not in SOURCE_SUFFIXES:
        raise WorkflowLoadFailed(f"{file} is not a Python file", {"path": str(file)})
    module = importlib.util.module_from_spec(spec)
    with _lock, _fresh_modules(file.parent):
        before = sys.modules.get(name)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
            if isinstance(error, (SmithersError, KeyboardInterrupt)):
                raise
            line = _line_in(error, file)
            raise WorkflowLoadFailed(
                f"{file.name}{line} cannot be imported: {type(error).__name__}: {error}", {"path": str(file)}
            ) from error
    return module


@contextmanager
def _fresh_modules(root: Path) -> Generator[None]:
    """Has what is imported from below a folder be imported afresh; if that fails, what was there before stays."""
    folder, finder = str(root), _Finder(root)
    before = _take_out(root)
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    sys.meta_path.insert(sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0, finder)
    try:
        yield
    except BaseException:
        _take_out(root)
        sys.modules.update(before)
        raise
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(folder)


def _take_out(root: Path) -> dict[str, ModuleType]:
    """Forget the modules below a folder, and those of other workflows' folders that go by names of its own."""
    ours = {name: spec.loader.root for name, spec in _specs() if isinstance(spec.loader, _Loader) and spec.loader.root}
    names = {
        top
        for top, home in {(name.partition(".")[0], home) for name, home in ours.items()}
        if home == root or (root / f"{top}.py").is_file() or (root / top).is_dir()
    }
    gone = {name for name in ours if name.partition(".")[0] in names}
    for name, spec in _specs():  # folders without an __init__.py that hold nothing else
        if spec.origin is None and spec.submodule_search_locations is not None and name.partition(".")[0] in names:
            below = [other for other in sys.modules if other.startswith(f"{name}.")]
            gone |= {name} if all(other in ours for other in below) else set()
    gone |= {name for name, module in sys.modules.items() if _is_sibling(module, root)}
    return {name: sys.modules.pop(name) for name in gone}


def _specs() -> list[tuple[str, ModuleSpec]]:
    found = [(name, getattr(module, "__spec__", None)) for name, module in list(sys.modules.items())]
    return [(name, spec) for name, spec in found if isinstance(spec, ModuleSpec)]


class _Loader(SourceFileLoader):
    """Loads a module of a workflow's folder, without what Python has kept of it if that may be out of date."""

    def __init__(self, fullname: str, path: str, root: Path | None = None) -> None:
        super().__init__(fullname, path)
        self.root = root

    def path_stats(self, path: str) -> Mapping[str, object]:
        found = os.stat(path)  # noqa: PTH116 - as given, once for every import
        if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_S:
            raise OSError(f"{path} was changed a moment ago")  # which is how a loader says: do not use the kept code
        return {"mtime": found.st_mtime, "size": found.st_size}


class _Finder:
    """Finds modules and packages below a folder before anything else does, so that they are loaded by `_Loader`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec, if it is one of the folder's own."""
        del target
        if fullname.partition(".")[0] == __name__.partition(".")[0]:
            return None  # a workflow beside this package does not get one of its own
        spec = PathFinder.find_spec(fullname, [str(self._root)] if path is None else path)
        if spec is None or spec.origin is None or type(spec.loader) is not SourceFileLoader:
            return None
        home = str(self._root.joinpath(*fullname.split(".")))
        if spec.origin not in (f"{home}.py", f"{home}{os.sep}__init__.py"):
            return None  # below the folder, but not as its module: an environment in it, for instance
        spec.loader = _Loader(fullname, spec.origin, self._root)
        return spec


def _is_sibling(module: ModuleType | None, folder: Path) -> bool:
    """Whether a module was imported from the folder of the workflow file, as a plain module beside it."""
    origin = getattr(module, "__file__", None)
    name = getattr(module, "__name__", "")
    if not origin or "." in name or name == "__main__" or name.startswith("smithers_workflow_"):
        return False
    return Path(origin).parent == folder


def _line_in(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f":{error.lineno}:{error.offset or 0}"
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def source_hash(path: Path | None) -> str | None:
    """A hash over a workflow file and the modules beside it that it imports, directly or not; None without a file."""
    if path is None or not path.is_file():
        return None
    return hash_of(source_files(path))


def hash_of(files: Mapping[str, bytes]) -> str:
    """The hash over files that `source_files` gave."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


def source_files(path: Path) -> dict[str, bytes]:
    """A workflow file and the modules beside it that it imports, directly or not: contents by path below its folder."""
    seen: dict[str, bytes] = {}
    todo = [path.resolve()]
    root = path.resolve().parent
    while todo:
        file = todo.pop()
        name = str(file.relative_to(root))
        if name in seen:
            continue
        text = file.read_bytes()
        seen[name] = text
        todo += [found for found in _local_imports(text, root, file.parent) if str(found.relative_to(root)) not in seen]
    return seen


def _local_imports(text: bytes, root: Path, folder: Path) -> list[Path]:
    try:
        with _parsing:
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    names: list[tuple[Path, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = root
            if node.level:
                base = folder
                for _ in range(node.level - 1):
                    base = base.parent
            module = node.module or ""
            names.append((base, module))
            names += [(base, f"{module}.{alias.name}".strip(".")) for alias in node.names]
    found: list[Path] = []
    for base, dotted in names:
        stem = base.joinpath(*dotted.split(".")) if dotted else base
        for candidate in (stem.with_suffix(".py") if dotted else stem / "__init__.py", stem / "__init__.py"):
            if candidate.is_file() and candidate.resolve().is_relative_to(root):
                found.append(candidate.resolve())
    return found
