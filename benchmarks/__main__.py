"""The command: measures what was asked for and prints one table. Every measurement runs in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from benchmarks import startup
from benchmarks.cases import CASES, PEERS, SIZES, SUBJECTS, Case
from benchmarks.report import Line, Samples, as_json, lines_of, table

ROOT = Path(__file__).parent.parent
LONGEST_S = 900


def say(text: str = "") -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line about how far we are."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def measure(place: str, n: int, scratch: Path) -> dict[str, float] | None:
    """Run one function of this package in a fresh process. Raises `RuntimeError` with what it said if it fails."""
    command = [sys.executable, "-m", "benchmarks.child", place, str(n), str(scratch)]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{place} with n={n} took longer than {LONGEST_S} s") from error
    if ended.returncode != 0:
        raise RuntimeError(f"{place} with n={n} failed:\n{ended.stderr[-3000:]}")
    found: dict[str, float] | None = json.loads(ended.stdout.splitlines()[-1])
    return found


def missing_packages() -> dict[str, str]:
    """Subjects that cannot be measured here, and why."""
    found: dict[str, str] = {}
    for subject, packages in PEERS.items():
        for package in packages:
            try:
                version(package)
            except PackageNotFoundError:
                found.setdefault(
                    subject, f"skipped: {SUBJECTS[subject]} ({package} is not installed here; see ./scripts/bench)"
                )
    return found


def measure_case(
    case: Case, sizes: tuple[int, ...], subjects: list[str], options: argparse.Namespace, scratch: Path
) -> list[Line]:
    """All repeats of a case. Subjects take turns, so that a busy moment of the machine hits all of them."""
    samples: Samples = {}
    wanted = [
        (n, subject)
        for n in sizes
        for subject in case.functions
        if subject in subjects and (subject not in PEERS or n <= options.peers_up_to)
    ]
    for n, subject in wanted:
        if subject in case.prepare:
            measure(case.prepare[subject], n, scratch)
    for repeat in range(options.repeats):
        for n, subject in wanted:
            note(f"{case.name} n={n} {subject} ({repeat + 1} of {options.repeats})")
            found = measure(case.functions[subject], n, scratch)
            assert found is not None
            samples.setdefault((case.name, n, subject), []).append(found)
    return lines_of(case, sizes, samples)


def header(subjects: list[str], repeats: int) -> dict[str, object]:
    """What the figures depend on."""
    packages = ["smithers", "apsw", "pydantic"]
    packages += [package for subject in subjects for package in PEERS.get(subject, ())]
    return {
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "durability": "WAL, synchronous=FULL",
        "repeats": repeats,
        "packages": {package: version(package) for package in packages},
    }


def is_named(case: str, name: str) -> bool:
    """Whether a name on the command line means a case: its own, or the first word of several."""
    return case == name or case.startswith(name + "-")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}; all of them by default")
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="tasks of a chain and a fan-out (%(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for each figure (%(default)s)")
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="whom to measure (%(default)s)")
    parser.add_argument("--peers-up-to", type=int, default=1_000, help="largest size for other engines (%(default)s)")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build", help="where databases go; a real disk (build/)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every repeat's values to FILE")
    options = parser.parse_args(arguments)
    for name in options.cases:
        if not any(is_named(case, name) for case in names):
            parser.error(f"there is no case {name!r}; cases are {', '.join(names)}")
    options.sizes = tuple(sorted(int(size) for size in options.sizes.split(",")))
    options.subjects = options.subjects.split(",")
    if unknown := set(options.subjects) - set(SUBJECTS):
        parser.error(f"there is no subject {', '.join(unknown)}; subjects are {', '.join(SUBJECTS)}")
    if options.repeats < 1 or options.sizes[0] < 1:
        parser.error("sizes and repeats are at least 1")
    return options


def main() -> int:
    """Measure and print. Returns the exit code: 1 when a measurement failed, whether or not targets are met."""
    options = parse()
    missing = missing_packages()
    subjects = [subject for subject in options.subjects if subject not in missing]
    facts = header(subjects, options.repeats)
    skipped = [text for subject, text in missing.items() if subject in options.subjects]
    lines: list[Line] = []
    options.scratch.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if options.cases and not any(is_named(case.name, name) for name in options.cases):
            continue
        if case.name == "up" and (reason := startup.missing_command()) is not None:
            skipped.append(f"skipped: {case.title} ({reason})")
            continue
        sizes = options.sizes if case.sizes == SIZES else case.sizes
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as scratch:
            try:
                lines += measure_case(case, sizes, subjects, options, Path(scratch))
            except RuntimeError as error:
                skipped.append(f"failed: {case.title}: {error}")
    packages = facts["packages"]
    assert isinstance(packages, dict)
    say(f"{facts['cores']} cores, {facts['machine']}, Python {facts['python']}, SQLite {facts['sqlite']}")
    say(", ".join(f"{name} {number}" for name, number in packages.items()))
    say(f"{facts['durability']}; median (least–most) of {options.repeats} fresh processes")
    say()
    if lines:
        say(table(lines))
    for text in skipped:
        say(text)
    if options.json is not None:
        found = {"environment": facts, "lines": as_json(lines), "skipped": skipped}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(text.startswith("failed") for text in skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
