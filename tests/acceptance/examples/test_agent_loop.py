"""The agent loop example, on its scripted models: the tests find the fault, the next round corrects it."""

from __future__ import annotations

import json
import runpy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.acceptance.examples import support

from smithers import RunStatus, load_workflow
from smithers.components.workflow import SmithersWorkflow


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> SmithersWorkflow:
    monkeypatch.delenv("SMITHERS_MODEL", raising=False)
    return load_workflow(support.EXAMPLES / "agent_loop.py")


def test_it_writes_tests_and_reviews_until_the_function_is_right(workflow: SmithersWorkflow, tmp_path: Path) -> None:
    result, events = support.run(workflow, tmp_path / "x.db", {"folder": str(tmp_path)})

    assert result.status is RunStatus.FINISHED
    assert support.finished(events) == ["implement", "test", "review"] * 2 + ["accept"]
    assert result.output is not None
    accepted = support.as_json(result.output[0])
    assert accepted["rounds"] == 2
    to_roman = runpy.run_path(str(accepted["file"]))["to_roman"]
    assert [to_roman(n) for n in (4, 1994, 3999)] == ["IV", "MCMXCIV", "MMMCMXCIX"]


def test_it_fails_when_the_rounds_are_used_up(workflow: SmithersWorkflow, tmp_path: Path) -> None:
    result, _ = support.run(workflow, tmp_path / "x.db", {"folder": str(tmp_path), "max_rounds": 1})

    assert result.status is RunStatus.FAILED
    assert not any("accept" in id for id in support.attempts(tmp_path / "x.db", result.run_id))


class Endpoint(BaseHTTPRequestHandler):
    """Answers chat completions as a provider does, by a call of the output tool that it was offered."""

    prompts: list[str]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = str(asked["messages"][-1]["content"])
        self.prompts.append(prompt)
        if prompt.startswith("Write"):
            values: dict[str, object] = {"source": "def double(n):\n    return 2 * n\n", "note": ""}
        else:
            values = {"approved": True, "feedback": ""}
        call = {"name": asked["tools"][0]["function"]["name"], "arguments": json.dumps(values)}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call-1", "type": "function", "function": call}],
        }
        answer = {
            "id": "answer-1",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr."""


def test_with_a_model_named_in_the_environment_that_endpoint_is_asked(tmp_path: Path) -> None:
    Endpoint.prompts = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    request = {"goal": "def double(n): twice n", "tests": "assert double(4) == 8", "folder": str(tmp_path)}
    try:
        done = support.smithers(
            tmp_path,
            "up",
            str(support.EXAMPLES / "agent_loop.py"),
            "--input",
            json.dumps(request),
            SMITHERS_MODEL="some-model",
            OPENAI_API_KEY="no-secret",
            OPENAI_BASE_URL=f"http://127.0.0.1:{server.server_port}/v1",
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert done.returncode == 0, done.stderr
    assert len(Endpoint.prompts) == 2
    assert "def double(n): twice n" in Endpoint.prompts[0]
    assert "The tests pass." in Endpoint.prompts[1]
