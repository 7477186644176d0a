"""The client that is published for this protocol's JavaScript implementation drives a run here, unmodified.

It is fetched once with the machine's npm, as that is set up, into `build/`. The package is TypeScript for browsers, so its one
module is bundled as it is for Node; of its dependencies that module uses types only.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.gateway.support import PATIENCE_S, ROOT, GatewayProcess
from tests.unit.vcs.support import Repo

VERSION = "0.32.0"
PACKAGE = f"@smithers-orchestrator/gateway-client@{VERSION}"
BUNDLER = "esbuild@0.28.2"
CACHE = ROOT / "build" / "published-client"
HERE = Path(__file__).parent
NODE = ["node", "--experimental-websocket"]
NEEDS = 'process.exit(typeof WebSocket === "function" && typeof fetch === "function" ? 0 : 1)'
FETCH_S = 60


def _ask(command: list[str], folder: Path, problem: str) -> str:
    """Run a command; the test is skipped if it cannot be done. What it says is not shown: it may name hosts."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        pytest.skip(problem)
    if done.returncode != 0:
        pytest.skip(problem)
    return done.stdout


@pytest.fixture(scope="session")
def published_client() -> Path:
    """The client as one module that Node can load."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed")
    _ask([*NODE, "-e", NEEDS], HERE, "this Node has no WebSocket; 20.10 or later is needed")
    found = CACHE / f"{VERSION}.mjs"
    if found.exists():
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    unreachable = "npm cannot reach its registry, or the registry does not have the package"
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        (folder / "package.json").write_text('{"private": true}')
        packed = _ask(["npm", "pack", "--silent", PACKAGE], folder, unreachable).split()[-1]
        with tarfile.open(folder / packed) as archive:
            archive.extractall(folder, filter="data")
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
        _ask(["npm", "install", *quiet, BUNDLER], folder, unreachable)
        source = folder / "package" / "src" / "SmithersGatewayClient.ts"
        bundle = ["--bundle", "--platform=node", "--format=esm", f"--outfile={folder / 'client.mjs'}", str(source)]
        _ask([str(folder / "node_modules" / ".bin" / "esbuild"), *bundle], folder, "the client cannot be bundled here")
        (folder / "client.mjs").replace(found)
    return found


class Script:
    """The client's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def said(self, name: str) -> Any:
        """The next line, which must be of this name."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client has ended"
        found: dict[str, Any] = json.loads(line)
        assert list(found) == [name], found
        return found[name]

    def go_on(self) -> None:
        """Let it go on from where it waits."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@contextmanager
def script_of(client: Path, gateway: GatewayProcess, name: str = "life.mjs") -> Generator[Script]:
    process = subprocess.Popen(
        [*NODE, "--no-warnings", str(HERE / name), str(client), f"http://127.0.0.1:{gateway.port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Script(process)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_the_published_client_launches_streams_approves_signals_and_reads_across_restarts(
    gateway: GatewayProcess, published_client: Path
) -> None:
    with script_of(published_client, gateway) as script:
        assert script.said("launched")["runId"] == "life"
        (approval,) = script.said("approvals")
        assert (approval["nodeId"], approval["requestTitle"]) == ("ship", "Ship it?")
        assert script.said("at") == "approval"
        assert gateway.end(signal.SIGKILL) == -signal.SIGKILL
        gateway.start()
        script.go_on()
        assert script.said("approved")["approved"] is True

        assert script.said("at") == "signal"
        assert gateway.end(signal.SIGTERM) == 0
        gateway.start()
        script.go_on()
        assert script.said("signalled")["signalName"] == "ping"

        read = script.said("read")
        assert read["reconnects"] >= 2
        assert script.said("output")["row"]["text"] == "t1"
        assert script.said("ping")["row"]["n"] == 7
        assert script.said("run")["status"] == "finished"
        assert [run["runId"] for run in script.said("runs")] == ["life"]
        assert script.said("refused") == {"name": "GatewayRpcError", "code": "NOT_FOUND"}
    assert [tuple(each) for each in read["told"]] == gateway.log("life")


def test_the_published_client_follows_the_tree_of_a_run(gateway: GatewayProcess, published_client: Path) -> None:
    with script_of(published_client, gateway, "devtools.mjs") as script:
        followed, replayed = script.said("followed"), script.said("replayed")
        snapshot, first = script.said("snapshot"), script.said("first")
        assert script.said("refused") == {"name": "GatewayRpcError", "code": "FrameOutOfRange"}
    for found in (followed, replayed):
        assert (found["root"], found["seq"]) == (snapshot["root"], snapshot["seq"])
    assert followed["kinds"]["delta"] > 0
    names = [node["name"] for node in snapshot["root"]["children"]]
    assert names == ["t0", "t1", "t2", "ship", "ping", "last"]
    assert {node["task"]["state"] for node in snapshot["root"]["children"] if "task" in node} == {"finished"}
    assert (first["frameNo"], snapshot["runState"]["state"]) == (1, "succeeded")


def test_the_published_client_reads_what_a_node_has_changed_and_takes_a_run_back(
    gateway: GatewayProcess, published_client: Path
) -> None:
    repo = Repo(gateway.folder, commit=False)
    repo.write(".gitignore", "smithers.db*\n")
    repo.commit()
    with script_of(published_client, gateway, "travel.mjs") as script:
        diff, whole = script.said("diff"), script.said("whole")
        last = script.said("last")
        refusals = [script.said("refused") for _ in range(3)]
        rewound, rebased = script.said("rewound"), script.said("rebased")
        again = script.said("again")
    (patch,) = diff["patches"]
    assert (patch["path"], patch["operation"]) == ("made.txt", "add")
    assert patch["diff"].endswith("@@ -0,0 +1 @@\n+made\n")
    assert (whole["patches"], again["patches"]) == (diff["patches"], diff["patches"])
    codes = ["NodeNotFound", "ConfirmationRequired", "FrameOutOfRange"]
    assert refusals == [{"name": "GatewayRpcError", "code": code} for code in codes]
    assert (rewound["ok"], rewound["newFrameNo"], rewound["revertedSandboxes"]) == (True, 1, 1)
    assert rewound["deletedAttempts"] >= 2
    (warning,) = rewound["effectBoundary"]["warnings"]
    assert (warning["toolName"], warning["nodeId"]) == ("write", "wrote")
    assert 1 <= rebased <= last
