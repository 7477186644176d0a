"""What the tests of version control share: a repository as its user sees it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

WHO = {f"GIT_{role}_{what}": "ann" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Repo:
    """A git repository, looked at with plain git."""

    def __init__(self, top: Path, *, commit: bool = True, options: tuple[str, ...] = ()) -> None:
        self.top = top
        top.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)
        if commit:
            self.write("a.txt", "one\n")
            self.write(".gitignore", "*.log\n")
            self.commit()

    def git(self, *arguments: str, fails: bool = True, cwd: Path | None = None) -> str:
        """Run git as the user would; what it wrote."""
        environment = {**os.environ, **WHO, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.top, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0 or not fails, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape")

    def write(self, path: str, text: str | bytes) -> Path:
        """Make a file."""
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def commit(self, message: str = "work") -> str:
        """Commit everything."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def state(self) -> dict[str, object]:
        """Everything of the user's that a checkpoint must leave alone."""
        index = self.top / ".git" / "index"
        return {
            "status": self.git("status", "--porcelain=v2", "--branch", "-z", "--ignored"),
            "index": self.git("ls-files", "--stage", "-z"),
            "stored": index.read_bytes() if index.is_file() else None,
            "fsck": self.git("fsck", "--full", "--no-dangling"),
            "refs": self.git(
                "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags", "refs/stash"
            ),
            "head": (self.top / ".git" / "HEAD").read_text() if (self.top / ".git").is_dir() else None,
            "config": self.git("config", "--local", "--list"),
            "files": self.files(),
        }

    def files(self, top: Path | None = None) -> dict[str, bytes | str]:
        """All files with their contents, links with their targets."""
        top = top or self.top
        found: dict[str, bytes | str] = {}
        for folder, folders, names in os.walk(top):
            if ".git" in folders:
                folders.remove(".git")
            for name in [*names, *(f for f in folders if (Path(folder) / f).is_symlink())]:
                path = Path(folder) / name
                if name != ".git":
                    text = os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")
                    found[text] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
        return found
