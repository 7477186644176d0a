"""Makes the pages of docs/reference from the code: signatures and docstrings of what users import, the error tree, the
events and variables that the source names, the command line.

What the code cannot tell in place (what an event means, what properties that many components share mean) is in
`reference_texts.py`; a name in the code that has no text there stops the generator.
"""

# ruff: noqa: INP001 - a script beside the pages that it makes

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import reference_texts as texts  # noqa: E402

import smithers  # noqa: E402
from smithers import errors  # noqa: E402
from smithers.components.element import Element  # noqa: E402
from smithers.events import category  # noqa: E402

SOURCE = HERE.parent / "src" / "smithers"
NOTICE = (
    "<!-- Made by scripts/docs from the code. Change the code, or docs/reference_texts.py, and run it again. -->\n\n"
)


class Undocumented(RuntimeError):
    """The code names something that no text tells of."""


def pages() -> dict[str, str]:
    """All pages by file name."""
    made = {
        "components.md": components_page(),
        "api.md": api_page(),
        "errors.md": errors_page(),
        "events.md": events_page(),
        "settings.md": settings_page(),
        "cli.md": cli_page(),
    }
    return {name: NOTICE + text.rstrip() + "\n" for name, text in made.items()}


# ── docstrings and signatures ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Doc:
    """A docstring in parts: prose, and what it says about each parameter, attribute and raised error."""

    prose: str
    names: dict[str, str]
    raises: str


def read_doc(obj: object) -> Doc:
    """The docstring of `obj`, in Google's style."""
    text = inspect.getdoc(obj) or ""
    prose: list[str] = []
    names: dict[str, str] = {}
    raises: list[str] = []
    section, last = "", ""
    for line in text.splitlines():
        if line in ("Args:", "Attributes:", "Raises:", "Returns:"):
            section, last = line, ""
        elif section and line.startswith("    "):
            entry = re.match(r"    (\w+): (.*)", line) if section in ("Args:", "Attributes:") else None
            if entry:
                last = entry[1]
                names[last] = entry[2]
            elif last:
                names[last] += " " + line.strip()
            elif section == "Raises:":
                raises.append(line.strip())
            elif section == "Returns:":
                prose.append(line.strip() if prose[-1] else "Returns: " + line.strip()[0].lower() + line.strip()[1:])
        else:
            section = section if not line.strip() else ""
            prose.append(line)
    return Doc("\n".join(prose).strip(), names, " ".join(raises))


def shown_type(annotation: object) -> str:
    """A type as the source writes it."""
    if annotation is inspect.Parameter.empty:
        return ""
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return "`" + name.replace("|", "\\|") + "`"


def shown_default(default: object) -> str:
    """A default as one would write it; empty for a required parameter."""
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(default, Mapping) and not default:
        return "`{}`"
    return f"`{default!r}`"


def parameters(obj: Callable[..., object], doc: Doc, shared: Mapping[str, str]) -> str:
    """The table of a signature's parameters."""
    rows: list[tuple[str, ...]] = []
    for name, parameter in inspect.signature(obj).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        meaning = doc.names.get(name) or shared.get(name)
        if meaning is None:
            raise Undocumented(f"parameter {name!r} of {obj!r}: describe it in the docstring")
        rows.append((f"`{name}`", shown_type(parameter.annotation), shown_default(parameter.default), meaning))
    return table(("parameter", "type", "default", "meaning"), rows) if rows else ""


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def section(name: str, obj: object, shared: Mapping[str, str]) -> str:
    """One public name: its docstring and its parameters or attributes."""
    doc = read_doc(obj)
    parts = [f"## {name}", doc.prose]
    if inspect.isclass(obj) and is_dataclass(obj):
        rows = [
            (f"`{f.name}`", shown_type(f.type), doc.names.get(f.name) or texts.ATTRIBUTES.get(f.name, ""))
            for f in fields(obj)
            if not f.name.startswith("_")
        ]
        parts.append(table(("attribute", "type", "meaning"), rows))
    elif inspect.isclass(obj) and issubclass(obj, Enum):
        parts.append(", ".join(f"`{member.value}`" for member in obj))
    elif inspect.isclass(obj):
        init = cast("Callable[..., object] | None", _members(name, obj).get("__init__"))
        if init is not None and name not in texts.NOT_MADE_BY_USERS:
            parts.append(parameters(init, doc, shared))
    elif callable(obj):
        parts.append(f"`{_keyword(obj)}{name}{_plain_signature(obj)}`")
        if any(name not in ("self",) for name in inspect.signature(obj).parameters) and doc.names:
            parts.append(parameters(obj, doc, shared))
    if doc.raises:
        parts.append(f"Raises: {doc.raises}")
    if inspect.isclass(obj) and not issubclass(obj, Element | Enum):
        parts += list(_methods(name, obj))
    return "\n\n".join(part for part in parts if part)


def _keyword(obj: object) -> str:
    return "async " if inspect.iscoroutinefunction(obj) else ""


def _plain_signature(obj: Callable[..., object]) -> str:
    """A signature as the source writes it, without `self`; the same in every version of Python."""
    signature = inspect.signature(obj)
    shown: list[str] = []
    has_star = False
    for name, parameter in signature.parameters.items():
        if name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not has_star:
            has_star = True
            shown.append("*")
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else stars
        has_star = has_star or stars == "*"
        text = f"{stars}{name}: {parameter.annotation}"
        shown.append(text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}")
    return f"({', '.join(shown)}) -> {signature.return_annotation}"


def _members(name: str, owner: type) -> dict[str, object]:
    """What a class has of its own; where the methods for users are listed, also what it has from others of this package."""
    found: dict[str, object] = {}
    for cls in owner.__mro__ if texts.METHODS.get(name) else (owner,):
        if cls is owner or cls.__module__.startswith("smithers."):
            found |= {key: value for key, value in vars(cls).items() if key not in found}
    return found


def _methods(name: str, owner: type) -> Iterator[str]:
    for attribute, value in _members(name, owner).items():
        function: object = getattr(value, "__func__", value)  # of a class method
        if (
            attribute.startswith("_")
            or attribute not in texts.METHODS.get(name, {attribute})
            or not inspect.isfunction(function)
            or not inspect.getdoc(function)
        ):
            continue
        doc = read_doc(function)
        yield f"### {name}.{attribute}\n\n`{_keyword(function)}{attribute}{_plain_signature(function)}`\n\n{doc.prose}"
        if doc.names:
            yield table(("parameter", "meaning"), [(f"`{n}`", meaning) for n, meaning in doc.names.items()])
        if doc.raises:
            yield f"Raises: {doc.raises}"


# ── pages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def public() -> dict[str, object]:
    """What users import, by name."""
    return {name: getattr(smithers, name) for name in smithers.__all__}


def is_component(name: str, obj: object) -> bool:
    """Whether a public name stands in trees."""
    is_element = inspect.isclass(obj) and issubclass(obj, Element) and obj is not Element
    return is_element or name in ("ApprovalGate", "continue_as_new")


def components_page() -> str:
    """What an author puts into a tree."""
    parts = ["# Components", texts.COMPONENTS]
    for name, obj in sorted(public().items(), key=lambda item: item[0].lower()):
        if is_component(name, obj):
            parts.append(section(name, obj, texts.SHARED))
    return "\n\n".join(parts)


def api_page() -> str:
    """Everything else that users import."""
    parts = ["# Python interface", texts.API]
    for name, obj in sorted(public().items(), key=lambda item: item[0].lower()):
        if not is_component(name, obj) and name not in ("SmithersError", "Settings"):
            parts.append(section(name, obj, texts.SHARED))
    for path, names in texts.MORE.items():
        parts.append(f"# `{path}`")
        parts += [section(name, getattr(import_module(path), name), texts.SHARED) for name in names]
    return "\n\n".join(parts)


def errors_page() -> str:
    """Each code with the classes that carry it."""
    by_code = _class_codes()
    for code in set(_literal_codes()):
        by_code.setdefault(code, [])
    parts = ["# Errors", texts.ERRORS]
    for code in sorted(by_code, key=str.lower):
        rows = [
            (f"`{c.__name__}`", str(c.status), "yes" if c.retryable else "no", (inspect.getdoc(c) or "").split("\n")[0])
            for c in by_code[code]
        ]
        if not rows and code not in texts.CODES:
            raise Undocumented(f"error code {code}: say in docs/reference_texts.py what it means")
        body = table(("class", "HTTP status", "worth another attempt", "meaning"), rows) if rows else texts.CODES[code]
        parts.append(f"## {code}\n\n{body}")
    return "\n\n".join(parts)


def _class_codes() -> dict[str, list[type[errors.SmithersError]]]:
    """The classes of the error tree by their codes."""
    found: dict[str, list[type[errors.SmithersError]]] = {}
    for name in dir(errors):
        cls: object = getattr(errors, name)
        if inspect.isclass(cls) and issubclass(cls, errors.SmithersError):
            found.setdefault(cls.code, []).append(cls)
    return found


@dataclass(frozen=True)
class Source:
    """What the pages need of the syntax of every module of the package."""

    calls: list[ast.Call]
    texts: list[str]


@cache
def source() -> Source:
    """The package, read once."""
    found = Source([], [])
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.calls.append(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.texts.append(node.value)
    return found


def _literal_codes() -> Iterator[str]:
    for call in source().calls:
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg == "code" and isinstance(value, str) and value.isupper():
                yield value


def events_page() -> str:
    """Every event type that the source drafts, with the fields that it gives."""
    found: dict[str, set[str]] = {}
    drafts = ("event", "attempt_event", "tell", "tell_of", "EventDraft")
    for call in source().calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in drafts or not call.args:
            continue
        types = [n.value for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant)]
        for type in [t for t in types if isinstance(t, str) and t[:1].isupper()]:
            own = found.setdefault(type, set())
            own |= {k.arg for k in call.keywords if k.arg} | ({"attempt"} if name == "attempt_event" else set())
    missing = sorted(found.keys() - texts.EVENTS.keys())
    if missing:
        raise Undocumented(f"events {', '.join(missing)}: say in docs/reference_texts.py what they tell")
    rows = [
        (f"`{type}`", category(type), ", ".join(f"`{f}`" for f in sorted(found[type])), texts.EVENTS[type])
        for type in sorted(found)
    ]
    return f"# Events\n\n{texts.EVENTS_HEAD}\n\n" + table(("type", "category", "fields", "what it tells"), rows)


def settings_page() -> str:
    """The fields of Settings and the environment variables that the source names."""
    doc = read_doc(smithers.Settings)
    reading = inspect.getsource(smithers.Settings.from_environment)
    variables = dict(re.findall(r'(\w+)=[^\n]*?"([A-Z][A-Z_]+)"', reading))
    rows = [
        (f"`{f.name}`", shown_type(f.type), f"`{variables[f.name]}`" if f.name in variables else "", doc.names[f.name])
        for f in fields(smithers.Settings)
    ]
    named = {text for text in source().texts if re.fullmatch(r"(SMITHERS|OPENAI)_[A-Z_]+", text)}
    named -= {*variables.values(), *_class_codes()}
    missing = sorted(named - texts.VARIABLES.keys())
    if missing:
        raise Undocumented(f"variables {', '.join(missing)}: describe them in docs/reference_texts.py")
    others = [(f"`{name}`", texts.VARIABLES[name]) for name in sorted(named)]
    return "\n\n".join(
        [
            "# Settings",
            texts.SETTINGS,
            table(("field", "type", "environment variable", "meaning"), rows),
            "## Other variables",
            table(("variable", "meaning"), others),
        ]
    )


def cli_page() -> str:
    """The command line, as the program itself describes it."""
    from smithers.cli.app import make_app

    # the usage lines name the program that runs, and the pages are the same whoever makes them
    started_as, sys.argv = sys.argv, ["smithers"]
    try:
        return make_app().generate_docs(heading_level=1).replace("\x1b", "")
    finally:
        sys.argv = started_as


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` only compare. The exit code."""
    folder = HERE / "reference"
    stale: list[str] = []
    made = pages()
    for name, text in made.items():
        file = folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                folder.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
    verb = "out of date" if "--check" in arguments else "written"
    sys.stderr.write(f"{verb}: {', '.join(stale)}\n" if stale else "docs/reference is up to date\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
