"""What the steps of a release do. Each may be run again after a crash: a step that finds its work done leaves it so."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from smithers import task_runtime

SOURCES = {
    "src/{name}/__init__.py": '"""A sample package."""\n\nfrom {name}.words import count\n\n__version__ = "{version}"\n'
    '__all__ = ["count"]\n',
    "src/{name}/words.py": '"""Counts words."""\n\n\ndef count(text: str) -> dict[str, int]:\n    """How often each word'
    ' occurs."""\n    found: dict[str, int] = {{}}\n    for word in text.lower().split():\n        found[word] ='
    " found.get(word, 0) + 1\n    return found\n",
    "tests/test_words.py": "import unittest\n\nfrom {name} import __version__, count\n\n\nclass Words(unittest.TestCase):\n"
    '    def test_counts(self):\n        self.assertEqual(count("a b A"), {{"a": 2, "b": 1}})\n\n'
    '    def test_version(self):\n        self.assertEqual(__version__, "{version}")\n',
    "CHANGELOG.md": "# {version}\n\n- Counts words.\n",
}
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Plan(BaseModel):
    """What is released, and the folder that it is built in."""

    name: str
    before: str
    version: str
    folder: str


class Archive(BaseModel):
    """A built file and its checksum."""

    file: str
    sha256: str
    size: int


class CheckResult(BaseModel):
    """A check that passed."""

    name: str
    detail: str


class Manifest(BaseModel):
    """The files of the release."""

    archives: list[Archive]


class Undone(BaseModel):
    """A step that was taken back."""

    step: str
    was_there: bool


class Cleaned(BaseModel):
    """The temporary folder that was removed, if there was one."""

    folder: str | None


class Release(BaseModel):
    """What is out."""

    name: str
    version: str
    files: dict[str, str]


class StepFailed(RuntimeError):
    """A step of the release could not be carried out."""


# ── building ───────────────────────────────────────────────────────────────────────────────────────────────────────


def make_plan(name: str, version: str, bump: Literal["major", "minor", "patch"]) -> Plan:
    """The next version, and a folder with the package's sources for it."""
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise StepFailed(f"version must be like 1.2.3, not {version!r}")
    major, minor, patch = map(int, parts)
    found = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}[bump]
    following = ".".join(map(str, found))
    folder = Path(tempfile.mkdtemp(prefix="smithers-release-"))
    for path, text in SOURCES.items():
        file = folder / path.format(name=name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=name, version=following), encoding="utf-8")
    return Plan(name=name, before=version, version=following, folder=str(folder))


def build_sdist(plan: Plan) -> Archive:
    """A tar of all sources. The same sources give the same bytes: no times, no owners."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for file in _files(Path(plan.folder), "."):
            info = tarfile.TarInfo(f"{plan.name}-{plan.version}/{file.relative_to(plan.folder).as_posix()}")
            data = file.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return _archive(plan, f"{plan.name}-{plan.version}.tar.gz", buffer.getvalue())


def build_wheel(plan: Plan) -> Archive:
    """A zip of the package itself, with the metadata that an installer reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        source = Path(plan.folder, "src")
        for file in _files(source, plan.name):
            wheel.writestr(zipfile.ZipInfo(file.relative_to(source).as_posix(), _EPOCH), file.read_bytes())
        metadata = f"Metadata-Version: 2.1\nName: {plan.name}\nVersion: {plan.version}\n"
        wheel.writestr(zipfile.ZipInfo(f"{plan.name}-{plan.version}.dist-info/METADATA", _EPOCH), metadata)
    return _archive(plan, f"{plan.name}-{plan.version}-py3-none-any.whl", buffer.getvalue())


def _files(folder: Path, below: str) -> list[Path]:
    found = (folder / below).rglob("*")
    return sorted(f for f in found if f.is_file() and not {"dist", "__pycache__"} & set(f.relative_to(folder).parts))


def _archive(plan: Plan, name: str, data: bytes) -> Archive:
    file = Path(plan.folder, "dist", name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return Archive(file=str(file), sha256=sha256(data).hexdigest(), size=len(data))


# ── checking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def check_compiles(plan: Plan) -> CheckResult:
    """Every source file is Python, and the changelog tells of this version."""
    files = [f for f in _files(Path(plan.folder), ".") if f.suffix == ".py"]
    for file in files:
        compile(file.read_text(encoding="utf-8"), str(file), "exec")
    if f"# {plan.version}" not in Path(plan.folder, "CHANGELOG.md").read_text(encoding="utf-8"):
        raise StepFailed(f"the changelog does not mention {plan.version}")
    return CheckResult(name="compiles", detail=f"{len(files)} files")


def check_tests(should_fail: bool, plan: Plan) -> CheckResult:
    """The package's own tests, in a process of their own."""
    command = [sys.executable, "-B", "-m", "unittest", "discover", "-s", "tests"]
    if should_fail:
        command += ["-p", "no-such-test*.py"]
    environment = {"PYTHONPATH": str(Path(plan.folder, "src"))}
    done = subprocess.run(command, cwd=plan.folder, env=environment, capture_output=True, text=True, timeout=60)
    said = (done.stderr.strip().splitlines() or [""])[-1]
    if "Ran 0 tests" in done.stderr:
        raise StepFailed("no test was found")
    if done.returncode:
        raise StepFailed(f"the tests failed: {said}")
    return CheckResult(name="tests", detail=said)


def make_manifest(sdist: Archive, wheel: Archive) -> Manifest:
    """What will be published; the files must still be what was built."""
    for archive in (sdist, wheel):
        if sha256(Path(archive.file).read_bytes()).hexdigest() != archive.sha256:
            raise StepFailed(f"{archive.file} changed after it was built")
    return Manifest(archives=[sdist, wheel])


# ── shipping ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _place(registry: str, *parts: str) -> Path:
    return task_runtime().root_dir.joinpath(registry, *parts)


def _tag(registry: str, plan: Plan) -> Path:
    return _place(registry, "tags", f"{plan.name}-{plan.version}.json")


def _release(registry: str, plan: Plan) -> Path:
    return _place(registry, "packages", plan.name, plan.version)


def _write(file: Path, text: str) -> None:
    """Write a file in one piece."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def write_tag(registry: str, should_fail: bool, plan: Plan) -> dict[str, str]:
    """Claim the version's name. A version that another run has tagged is refused."""
    if should_fail:
        raise StepFailed("the tag was refused (fail_at)")
    file, run_id = _tag(registry, plan), task_runtime().run_id
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["run"] != run_id:
        raise StepFailed(f"{plan.name} {plan.version} has been tagged by another run")
    _write(file, json.dumps({"run": run_id, "version": plan.version}))
    return {"step": "tag", "path": str(file)}


def remove_tag(registry: str, plan: Plan) -> Undone:
    """Give the version's name back."""
    file = _tag(registry, plan)
    was_there = file.exists()
    file.unlink(missing_ok=True)
    return Undone(step="tag", was_there=was_there)


def publish(registry: str, should_fail: bool, plan: Plan, manifest: Manifest) -> dict[str, str]:
    """Copy the files into the registry; they appear there all at once."""
    target = _release(registry, plan)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    sums = ""
    for archive in manifest.archives:
        shutil.copy2(archive.file, draft)
        sums += f"{archive.sha256}  {Path(archive.file).name}\n"
    (draft / "SHA256SUMS").write_text(sums, encoding="utf-8")
    if should_fail:
        shutil.rmtree(draft)
        raise StepFailed("the registry refused the files (fail_at)")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return {"step": "publish", "path": str(target)}


def yank(registry: str, plan: Plan) -> Undone:
    """Take the files out of the registry."""
    target = _release(registry, plan)
    was_there = target.exists()
    shutil.rmtree(target, ignore_errors=True)
    return Undone(step="publish", was_there=was_there)


def announce(registry: str, should_fail: bool, plan: Plan) -> dict[str, str]:
    """Tell readers which version is the latest."""
    if should_fail:
        raise StepFailed("nobody could be told (fail_at)")
    file = _place(registry, "packages", plan.name, "LATEST")
    _write(file, plan.version + "\n")
    return {"step": "announce", "path": str(file)}


def summarise(plan: Plan, manifest: Manifest) -> Release:
    """What is out now."""
    return Release(name=plan.name, version=plan.version, files={Path(a.file).name: a.sha256 for a in manifest.archives})


def clean_up(rows: Mapping[str, object]) -> Cleaned:
    """Remove the temporary folder, if the plan got as far as making one."""
    plan = rows.get("plan")
    if not isinstance(plan, Plan):
        return Cleaned(folder=None)
    shutil.rmtree(plan.folder, ignore_errors=True)
    return Cleaned(folder=plan.folder)
