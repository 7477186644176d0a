"""The files of deploy/ name only what there is: flags, variables, files, ports, and times that fit together."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smithers.asgi.guards import Guard
from smithers.cli import gatewaying, worker_host, working
from smithers.cli.arguments import read_duration
from smithers.cli.gateway_host import STOP_PATIENCE_S
from smithers.observability.metrics import Metrics
from smithers.server.worker import WorkerStatus, worker_app
from smithers.settings import Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
PORT = 7331
WORKER_PORT = 7332
COMMON = {"db", "format", "debug"}

yaml: Any = importlib.import_module("yaml")  # has no types here, and comes with the tests' other packages


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


def flags(command: str) -> set[str]:
    """The long flags that a command of the command line has."""
    functions: dict[str, Callable[..., object]] = {"worker": working.worker, "gateway": gatewaying.gateway}
    return {f"--{name.replace('_', '-')}" for name in {*inspect.signature(functions[command]).parameters, *COMMON}}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in MANIFESTS:
        for document in documents(file):
            if "template" in document.get("spec", {}):
                yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = documents(DEPLOY / "compose.yaml")[0]["services"]
    return found


def commands() -> Iterator[tuple[str, list[str], float | None]]:
    """Every command that is started, and how many seconds it has to end."""
    for unit in UNITS:
        text = unit.read_text("utf-8")
        command = re.search(r"^ExecStart=\S+/smithers (.*)$", text, re.MULTILINE)
        patience = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
        assert command is not None
        assert patience is not None
        yield unit.name, [word for word in shlex.split(command[1]) if not word.startswith("$")], float(patience[1])
    for name, pod in pods():
        [container] = pod["containers"]
        grace = pod.get("terminationGracePeriodSeconds")
        pause = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])[1]
        yield name, container["args"], None if grace is None else grace - float(pause)
    for name, service in services().items():
        if name != "postgres":
            words = service["command"]
            if service.get("entrypoint"):
                words = shlex.split(words[0].rpartition("exec smithers ")[2])
            grace = service.get("stop_grace_period")
            yield name, words, None if grace is None else float(grace.removesuffix("s"))


COMMANDS = list(commands())


@pytest.mark.parametrize(
    ("name", "words", "grace_s"), COMMANDS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(COMMANDS)]
)
def test_commands_have_the_flags_that_they_are_given_and_time_to_end(
    name: str, words: list[str], grace_s: float | None
) -> None:
    command, given = words[0], {word for word in words if word.startswith("--")}
    if command == "db":
        assert words == ["db", "migrate"]
        return
    assert given <= flags(command)
    assert grace_s is not None, "it is ended before its runs are parked"
    if command == "gateway":
        assert grace_s > STOP_PATIENCE_S
        assert words[words.index("--port") + 1] == str(PORT)
    else:
        assert grace_s > read_duration(words[words.index("--drain") + 1], "--drain") / 1000 + worker_host.CLOSE_S


def test_variables_are_known_to_the_settings() -> None:
    known = set(re.findall(r"\b(?:SMITHERS|OTEL)_[A-Z_]+\b", Settings.from_environment.__doc__ or ""))
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            used = set(re.findall(r"\bSMITHERS_[A-Z_]+\b", file.read_text("utf-8")))
            assert used <= known, file.name


def test_probes_and_services_mean_the_port_and_the_path_that_answer() -> None:
    [gateway] = [pod["containers"][0] for name, pod in pods() if name == "smithers-gateway"]
    assert gateway["ports"] == [{"name": "http", "containerPort": PORT}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert gateway[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert f":{PORT}/health" in " ".join(services()["gateway"]["healthcheck"]["test"])
    assert services()["gateway"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert f"EXPOSE {PORT}\n" in (DEPLOY / "Dockerfile").read_text("utf-8")


def test_probes_of_workers_mean_the_port_and_the_paths_that_answer() -> None:
    [worker] = [pod["containers"][0] for name, pod in pods() if name == "smithers-worker"]
    assert worker["ports"] == [{"name": "health", "containerPort": WORKER_PORT}]
    assert worker["args"][worker["args"].index("--health-port") + 1] == str(WORKER_PORT)
    asked = {probe: worker[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in asked.values()} == {"health"}
    assert [asked[name]["path"] for name in ("startup", "readiness", "liveness")] == ["/health", "/ready", "/health"]
    paths = {route.path for route in worker_app(WorkerStatus(), Metrics(), Guard()).routes}
    assert {probe["path"] for probe in asked.values()} < paths
    service = services()["worker"]
    assert service["command"][service["command"].index("--health-port") + 1] == str(WORKER_PORT)
    assert f":{WORKER_PORT}/health" in " ".join(service["healthcheck"]["test"])


def test_selectors_find_the_pods_that_they_are_for() -> None:
    made = [document for file in MANIFESTS for document in documents(file) if "metadata" in document]
    names = {(document["kind"], document["metadata"]["name"]) for document in made}
    labelled = [d["spec"]["template"]["metadata"]["labels"] for d in made if "template" in d.get("spec", {})]
    for document in made:
        spec = document.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if document["kind"] == "Service":
            selector = {"matchLabels": selector}
        if selector and "matchLabels" in selector:
            assert selector["matchLabels"] in labelled, document["kind"]
        if target := spec.get("scaleTargetRef"):
            assert (target["kind"], target["name"]) in names


def test_volumes_secrets_and_files_that_are_named_are_there() -> None:
    listed = documents(DEPLOY / "kubernetes" / "kustomization.yaml")[0]
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in listed["resources"])
    made = {
        document["metadata"]["name"]
        for file in MANIFESTS
        for document in documents(file)
        if document["kind"] == "ConfigMap"
    }
    made |= {entry["name"] for entry in listed["configMapGenerator"]}
    for _, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
        assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} <= made
    compose = documents(DEPLOY / "compose.yaml")[0]
    for service in services().values():
        assert set(service["secrets"]) <= set(compose["secrets"])
        assert set(service["networks"]) <= set(compose["networks"])
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())


def test_nothing_runs_as_root_or_may_become_it() -> None:
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        limits = pod["containers"][0]["securityContext"]
        assert not limits["allowPrivilegeEscalation"]
        assert limits["readOnlyRootFilesystem"]
    for unit in UNITS:
        text = unit.read_text("utf-8")
        assert "User=smithers\n" in text
        assert "NoNewPrivileges=yes\n" in text
    for name, service in services().items():
        assert name == "postgres" or service["cap_drop"] == ["ALL"]
    assert re.search(r"^USER 10001:10001$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)


def test_the_runbook_asks_for_metrics_that_there_are() -> None:
    shown = set(re.findall(r"^# TYPE (\S+)", Metrics(is_gateway=True).render({}), re.MULTILINE))
    page = (ROOT / "docs" / "operations" / "runbook.md").read_text("utf-8")
    asked = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\bsmithers_[a-z_]+\b", page)}
    assert asked <= shown
