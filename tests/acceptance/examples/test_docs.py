"""Everything in the documentation runs: Python blocks, console blocks with what they print, and the made pages.

In a page, a Python block whose first line is `# name.py` is a file; others are run one after the other in one namespace.
Of a console block, lines after `$ ` are commands, the others what they print, where `…` stands for anything. A page that
names `postgresql:///smithers` in them gets an empty database of that name.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.acceptance.examples.support import ROOT
from tests.postgres_support import USER, PostgresServer

PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name not in ("reference", "benchmarks")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if language in languages]


def written_file(text: str) -> str | None:
    found = re.match(r"# (\w+\.py)\n", text)
    return found[1] if found else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SMITHERS_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    if any("postgresql:///smithers" in text for _, text in blocks(page, "console")):
        server: PostgresServer = request.getfixturevalue("postgres_server")
        server.drop_database("smithers")
        server.execute("CREATE DATABASE smithers")
        monkeypatch.setenv("PGHOST", str(server.folder))
        monkeypatch.setenv("PGUSER", USER)
    namespace: dict[str, object] = {"__name__": "page"}
    for language, text in blocks(page, "python", "console"):
        if language == "console":
            run_console(text, tmp_path)
        elif file := written_file(text):
            (tmp_path / file).write_text(text, encoding="utf-8")
        else:
            exec(compile(text, f"<{page.name}>", "exec"), namespace)


def run_console(text: str, folder: Path) -> None:
    """Run the commands of a block in one shell; each must print what stands below it."""
    commands: list[str] = []
    wanted: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
            wanted.append("")
        else:
            wanted[-1] += line + "\n"
    script = "".join(f"{command}\ncode=$?; echo; echo '@@@'; (exit $code)\n" for command in commands)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    printed = done.stdout.split("\n@@@\n")
    for command, expected, actual in zip(commands, wanted, printed, strict=False):
        pattern = ".*".join(re.escape(part) for part in expected.strip("\n").split("…"))
        assert re.fullmatch(pattern, actual.strip("\n"), re.DOTALL), f"$ {command}\n{actual}"
        assert "unexpected" not in actual, f"$ {command}\n{actual}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [match[0] for match in LINK.findall(page.read_text(encoding="utf-8"))]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says() -> None:
    made: dict[str, str] = generator().pages()
    stale = [name for name, text in made.items() if (ROOT / "docs/reference" / name).read_text("utf-8") != text]
    assert stale == [], "run scripts/docs"
