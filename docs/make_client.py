"""Makes `src/smithers/client/methods.py` and `sync_methods.py` from the declarations in `smithers.gateway.rpc`.

One Python method for each published RPC method: required parameters first, the others by name; the keys of `options` and
`filter` are parameters of their own.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
import types
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Union, get_args, get_origin, is_typeddict

from pydantic.fields import FieldInfo

from smithers.gateway.rpc.areas import AREAS
from smithers.gateway.rpc.registry import Method, Methods, Params

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "src" / "smithers" / "client"
BY_HAND = {"health", "streamRunEvents", "unsubscribe", "streamDevTools"}
"""Written by hand, or of no use outside a socket."""
NESTED = ("options", "filter")


class Argument(NamedTuple):
    """A parameter of a method; `group` is the object on the wire that it is a key of."""

    name: str
    wire: str
    kind: str
    is_required: bool
    group: str | None


def snake(name: str) -> str:
    """A wire name as Python has it."""
    text = "".join("_" + c.lower() if c.isupper() else c for c in name)
    return text.replace(".", "_").replace("__", "_")


def kind_of(annotation: Any) -> str:
    """A parameter's type, as clients have it."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        kinds = {kind_of(a) for a in get_args(annotation) if a is not type(None)}
        return "int" if kinds == {"int", "str"} else " | ".join(sorted(kinds))
    if origin is list:
        return f"Sequence[{kind_of(get_args(annotation)[0])}]"
    if origin is dict:
        return "Mapping[str, object]"
    if str(origin) == "typing.Literal":
        return f"Literal[{', '.join(repr(a) for a in get_args(annotation))}]".replace("'", '"')
    if str(origin) == "typing.Annotated" or hasattr(annotation, "__metadata__"):
        return kind_of(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return "Mapping[str, object]"
    if annotation in (str, int, float, bool):
        return str(annotation.__name__)
    return "object"


def arguments(params: type[Params], group: str | None = None) -> list[Argument]:
    """The parameters of a method, each once, the required ones first."""
    found: dict[str, Argument] = {}
    fields: dict[str, FieldInfo] = params.model_fields
    for name, field in fields.items():
        wire = field.alias or name
        model = next((a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)), None)
        if wire in NESTED and group is None and model is not None and issubclass(model, Params):
            for argument in arguments(model, wire):
                found.setdefault(argument.name, argument)
            continue
        found[name] = Argument(name, wire, kind_of(field.annotation), field.is_required() and group is None, group)
    return sorted(found.values(), key=lambda a: not a.is_required)


def answer_of(method: Method) -> tuple[str, str]:
    """What a method answers: the type, and the function that takes it from the wire."""
    payload = method.payload
    if get_origin(payload) is list:
        return "list[dict[str, object]]", "objects"
    if get_origin(payload) is dict or is_typeddict(payload):
        return "dict[str, object]", "an_object"
    return "object", ""


def body(method: Method, *, is_async: bool) -> str:
    """One method of a client."""
    listed = arguments(method.params)
    required = [f"{a.name}: {a.kind}" for a in listed if a.is_required]
    optional = [f"{a.name}: {a.kind} | None = None" for a in listed if not a.is_required]
    head = ", ".join(["self", *required, *(["*", *optional] if optional else [])])
    kind, reader = answer_of(method)
    lines = [f"{'async ' if is_async else ''}def {snake(method.name)}({head}) -> {kind}:"]
    lines += [f'    """{method.summary}', "", f"    Needs `{method.scope}`. Raises `GatewayError`.", '    """']
    plain = ", ".join(f'"{a.wire}": {a.name}' for a in listed if a.group is None)
    groups: dict[str, list[Argument]] = {}
    for a in listed:
        if a.group is not None:
            groups.setdefault(a.group, []).append(a)
    lines.append(f"    params = given({{{plain}}})")
    for group, members in groups.items():
        inner = ", ".join(f'"{a.wire}": {a.name}' for a in members)
        lines.append(f'    params |= group("{group}", given({{{inner}}}))')
    call = f'{"await " if is_async else ""}self.call("{method.name}", params)'
    lines.append(f"    return {reader}({call})" if reader else f"    return {call}")
    return textwrap.indent("\n".join(lines), "    ")


HEAD = '''"""{title}

Made by `scripts/client` from the gateway's declarations: change those, not this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from smithers.client.answers import an_object, group, objects
from smithers.client.frames import given


class {name}:
    """A method for each published method of a gateway."""

    {call}def call(self, method: str, params: Mapping[str, object] | None = None) -> object:
        """Call any method."""
        raise NotImplementedError
'''


def heading(method: Method) -> str:
    """A line above the methods of an area: what its module says that it is about."""
    subject = re.split("[:.;,]", (inspect.getmodule(method.handle).__doc__ or "").removeprefix("RPC: "))[0].strip()
    return f"── {subject} ".ljust(113, "─")


def module(*, is_async: bool) -> str:
    """The text of a module, formatted."""
    methods = [m for m in Methods(AREAS).declared if m.is_published and m.name not in BY_HAND]
    name = "Methods" if is_async else "SyncMethods"
    title = f"{name}: what {'`GatewayClient`' if is_async else '`SyncGatewayClient`'} can ask of a gateway."
    head = HEAD.format(title=title, name=name, call="async " if is_async else "")
    text = head
    for area, members in groupby(methods, key=heading):
        text += f"\n    # {area}\n" + "".join("\n" + body(m, is_async=is_async) + "\n" for m in members)
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(HOME / "methods.py"), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write the modules, or with `--check` tell whether they are as they would be written."""
    pages = {HOME / "methods.py": module(is_async=True), HOME / "sync_methods.py": module(is_async=False)}
    if "--check" in sys.argv[1:]:
        stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text() != text]
        if stale:
            sys.stderr.write(f"out of date: {', '.join(stale)}; run scripts/client\n")
        return 1 if stale else 0
    for path, text in pages.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
