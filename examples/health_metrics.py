"""Measures one Python file with `ast` and `tokenize`: size, complexity, nesting, docstrings, notes, duplicate blocks."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias, cast

from pydantic import BaseModel

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

MIN_BLOCK_LINES = 6
"""Shorter blocks are alike by chance."""

NOTES = ("TODO", "FIXME", "XXX", "HACK")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_NESTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert, ast.match_case)


class FunctionHealth(BaseModel):
    """One function: where it is and how hard it is to read."""

    name: str
    line: int
    lines: int
    complexity: int
    nesting: int


class Note(BaseModel):
    """A comment that says that something is left to do."""

    line: int
    text: str


class Block(BaseModel):
    """The body of a statement, by a digest of its syntax: blocks with one digest do the same."""

    digest: str
    line: int
    end: int


class FileHealth(BaseModel):
    """What was measured of one file. `problem` says why it could not be parsed."""

    path: str
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    complexity: int = 0
    long: list[FunctionHealth] = []
    worst: FunctionHealth | None = None
    undocumented: list[str] = []
    notes: list[Note] = []
    blocks: list[Block] = []
    problem: str | None = None


def measure(file: Path, path: str, max_lines: int) -> FileHealth:
    """Measure `file`, which the report calls `path`.

    Args:
        max_lines: functions with more lines are listed as long.
    """
    try:
        with tokenize.open(file) as stream:
            text = stream.read()
        tree = ast.parse(text)
        code_lines, notes = _tokens(text)
    except (OSError, SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
        return FileHealth(path=path, problem=f"{type(error).__name__}: {error}")
    functions = [_function(node, name) for node, name in _functions(tree, "")]
    return FileHealth(
        path=path,
        lines=len(text.splitlines()),
        code_lines=code_lines,
        functions=len(functions),
        complexity=sum(f.complexity for f in functions),
        long=[f for f in functions if f.lines > max_lines],
        worst=max(functions, key=lambda f: (f.complexity, f.lines), default=None),
        undocumented=list(_undocumented(tree)),
        notes=notes,
        blocks=list(_blocks(tree)),
    )


def _tokens(text: str) -> tuple[int, list[Note]]:
    """How many lines hold code, and the notes in the comments."""
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    notes: list[Note] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("#! ").split(maxsplit=1)
            if words and words[0].rstrip(":").split("(")[0] in NOTES:
                notes.append(Note(line=token.start[0], text=token.string.lstrip("#! ")[:100]))
        elif token.type not in ignored:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code), notes


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[Function, str]]:
    """Every function with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield child, name
            yield from _functions(child, name + ".")
        else:
            yield from _functions(child, prefix)


def _function(node: Function, name: str) -> FunctionHealth:
    own = [child for statement in node.body for child in _own(statement)]
    return FunctionHealth(
        name=name,
        line=node.lineno,
        lines=(node.end_lineno or node.lineno) - node.lineno + 1,
        complexity=1 + sum(_decisions(child) for child in own),
        nesting=max((_depth(statement) for statement in node.body), default=0),
    )


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is below it, without the bodies of functions and classes defined inside."""
    yield node
    if not isinstance(node, _SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _own(child)


def _decisions(node: ast.AST) -> int:
    """How many ways through the code a node adds, as McCabe counts."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def _depth(node: ast.AST) -> int:
    """How deep compound statements stand in each other; an `elif` stands beside its `if`."""
    if isinstance(node, _SCOPES):
        return 0
    own = int(isinstance(node, _NESTING))
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, _depth(child) - int(is_elif))
    return own + deepest


def _undocumented(tree: ast.Module) -> Iterator[str]:
    """Public modules, classes and functions without a docstring."""
    if tree.body and ast.get_docstring(tree) is None:
        yield "module"
    todo: list[tuple[ast.Module | ast.ClassDef, str]] = [(tree, "")]
    while todo:
        owner, prefix = todo.pop()
        for child in owner.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                if ast.get_docstring(child) is None and not _is_overload(child):
                    yield prefix + child.name
                if isinstance(child, ast.ClassDef):
                    todo.append((child, f"{prefix}{child.name}."))


def _is_overload(node: ast.AST) -> bool:
    """Overloads, and the setters of properties, are documented elsewhere."""
    decorators = getattr(node, "decorator_list", [])
    return any(
        ast.unparse(decorator).rsplit(".", 1)[-1] in ("overload", "setter", "deleter") for decorator in decorators
    )


def _blocks(tree: ast.Module) -> Iterator[Block]:
    """Bodies of statements that are long enough for their repetition to mean something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            given: object = getattr(node, name, None)
            if not isinstance(given, list) or not given:
                continue
            body = list(cast("list[ast.stmt]", given))
            if isinstance(node, _SCOPES) and len(body) > 1 and _is_text(body[0]):
                del body[0]  # the docstring may differ
            start, end = body[0].lineno, body[-1].end_lineno or body[-1].lineno
            if end - start + 1 >= MIN_BLOCK_LINES and len(body) > 1:
                text = "\n".join(ast.dump(statement) for statement in body)
                yield Block(digest=sha256(text.encode(errors="replace")).hexdigest()[:16], line=start, end=end)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
