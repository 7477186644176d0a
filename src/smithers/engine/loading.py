"""Loading: from a workflow file to its `SmithersWorkflow`, and the hash by which a resume notices that the source changed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

from smithers.components.workflow import SmithersWorkflow
from smithers.errors import InvalidInput, SmithersError, WorkflowLoadFailed

_lock = threading.Lock()
_parsing = threading.Lock()
"""CPython 3.11 counts the depth of a syntax tree wrongly when two threads make one at once."""


def load_workflow(path: str | Path, *, approved_root: object = None, name: str | None = None) -> SmithersWorkflow:
    """Import a workflow file afresh and find its workflow: the only one, or the one named `workflow` (or `name`).

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
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise WorkflowLoadFailed(f"{file} is not a Python file", {"path": str(file)})
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)
    with _lock:
        for stale in [n for n, m in sys.modules.items() if _is_sibling(m, file.parent)]:
            del sys.modules[stale]
        importlib.invalidate_caches()
        sys.modules[name] = module
        sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        except SmithersError:
            del sys.modules[name]
            raise
        except BaseException as error:
            del sys.modules[name]
            if isinstance(error, KeyboardInterrupt):
                raise
            line = _line_in(error, file)
            raise WorkflowLoadFailed(
                f"{file.name}{line} cannot be imported: {type(error).__name__}: {error}", {"path": str(file)}
            ) from error
        finally:
            sys.path.remove(folder)
    return module


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
    seen = source_files(path)
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(name.encode() + b"\0" + hashlib.sha256(seen[name]).digest())
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
