"""pydantic-ai agents as they are, and OpenAI-compatible endpoints: fakes, and a server in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pydantic_ai
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, ModelRetry, models
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from tests.unit.agents.support import NOW_MS, Recorder, Verdict, make_call, run

from smithers.agents import ChainState, openai_compatible, resolve_agent
from smithers.agents.structured import schema_text
from smithers.errors import (
    AgentAuthFailed,
    AgentConfigInvalid,
    AgentError,
    AgentQuotaExceeded,
    AgentSessionLost,
    InvalidOutput,
    error_object,
)
from smithers.tools import as_pydantic_tools, define_tool, read

models.ALLOW_MODEL_REQUESTS = False


def says(*replies: str | dict[str, object] | Exception) -> tuple[FunctionModel, list[list[ModelMessage]]]:
    """A model that gives these replies in turn: text, the arguments of the output tool, or an error."""
    seen: list[list[ModelMessage]] = []

    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(list(messages))
        answer = replies[min(len(seen), len(replies)) - 1]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return ModelResponse(parts=[TextPart(answer)])
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, answer)])

    return FunctionModel(reply, model_name="scripted"), seen


def test_importing_our_agents_does_not_import_pydantic_ai() -> None:
    check = (
        "import sys, smithers.agents, smithers.testing; sys.exit(not {'pydantic_ai', 'openai'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_authors_agent_works_as_it_is_tools_and_all() -> None:
    heard, looked = Recorder(), list[str]()
    agent = Agent(TestModel(), instructions="Be kind.")

    @agent.tool_plain
    def look(name: str) -> str:
        looked.append(name)
        return "seen"

    result = run(agent, make_call(recorder=heard), recorder=heard)
    assert isinstance(result.output, Verdict)
    assert looked
    assert (result.engine, result.model) == ("pydantic-ai", "test")
    assert result.usage.input_tokens > 0
    assert [report.usage for report in heard.usage] == [result.usage]
    assert any(
        event.get("action", {}) and "look" in str(event["action"]) for event in heard.events if "action" in event
    )


def test_its_own_output_type_is_trusted_with_its_validators() -> None:
    model, seen = says({"ok": False}, {"ok": True})
    agent = Agent(model, output_type=Verdict, retries=2)

    @agent.output_validator
    def must_be_ok(verdict: Verdict) -> Verdict:
        if not verdict.ok:
            raise ModelRetry("look again")
        return verdict

    result = run(agent)
    assert result.output == Verdict(ok=True)
    assert result.corrections == 0
    assert len(seen) == 2


@pytest.mark.parametrize("text", ['{"ok": true}', 'Sure:\n```json\n{"ok": true}\n```', 'It is {"ok": true}.'])
def test_a_model_that_answers_in_text_is_understood(text: str) -> None:
    model, seen = says(text)
    assert run(Agent(model)).output == Verdict(ok=True)
    assert len(seen) == 1


@pytest.mark.parametrize("first", ["no idea", {"ok": "maybe?"}])
def test_a_wrong_answer_is_corrected_in_the_same_conversation(first: str | dict[str, object]) -> None:
    heard, (model, seen) = Recorder(), says(first, {"ok": True})
    result = run(Agent(model), recorder=heard)
    assert result.output == Verdict(ok=True)
    assert result.corrections == 1
    assert len(heard.usage) == 2
    assert len(seen[1]) > len(seen[0])


def test_corrections_are_bounded() -> None:
    model, seen = says("no idea")
    with pytest.raises(InvalidOutput):
        run(Agent(model), make_call(max_schema_retries=2))
    assert len(seen) == 3


def test_a_stored_conversation_is_gone_on_with() -> None:
    model, seen = says({"ok": True})
    first = run(Agent(model))
    stored = json.loads(json.dumps(first.messages))
    run(Agent(model), make_call(prompt="And now?", messages=stored))
    assert "Judge it." in str(seen[1])
    assert "And now?" in str(seen[1])
    with pytest.raises(AgentSessionLost):
        run(Agent(model), make_call(messages={"engine": "pydantic-ai", "messages": [{"kind": "alien"}]}))


def test_a_model_without_tools_and_schemas_is_told_in_the_prompt() -> None:
    seen: list[AgentInfo] = []

    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(info)
        assert schema_text(Verdict) in str(messages[0])
        return ModelResponse(parts=[TextPart('{"ok": true}')])

    model = FunctionModel(reply, profile={"supports_tools": False, "supports_json_schema_output": False})
    assert run(Agent(model)).output == Verdict(ok=True)
    assert seen[0].output_tools == []


def test_only_allowed_tools_are_offered() -> None:
    offered: list[list[str]] = []

    def reply(_messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        offered.append([tool.name for tool in info.function_tools])
        return ModelResponse(parts=[TextPart('{"ok": true}')])

    def one() -> str:
        return ""

    def two() -> str:
        return ""

    agent = Agent(FunctionModel(reply), tools=[one, two])
    for allowed in (None, ("two",), ()):
        run(agent, make_call(allow_tools=allowed))
    assert offered == [["one", "two"], ["two"], []]


def http(status: int, headers: dict[str, str] | None = None) -> ModelHTTPError:
    return ModelHTTPError(status, "m", {"error": "sk-secretsecret123"}, headers=headers)


def test_a_429_is_a_used_up_limit_with_its_reset() -> None:
    model, _ = says(http(429, {"Retry-After": "7"}))
    state = ChainState()
    with pytest.raises(AgentQuotaExceeded) as caught:
        run(Agent(model), state=state)
    assert caught.value.details["quotaResetAtMs"] == NOW_MS + 7_000
    assert list(state.blocked.values()) == [NOW_MS + 7_000]


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (http(401), AgentAuthFailed),
        (http(404), AgentConfigInvalid),
        (http(500), AgentError),
        (pydantic_ai.UserError("bad set-up"), AgentConfigInvalid),
        (RuntimeError("boom"), AgentError),
    ],
)
def test_provider_errors_become_ours_without_credentials(problem: Exception, kind: type[AgentError]) -> None:
    model, _ = says(problem)
    with pytest.raises(AgentError) as caught:
        run(Agent(model))
    assert type(caught.value) is kind
    assert "sk-secret" not in json.dumps(error_object(caught.value))


def test_an_agent_without_model_is_set_up_wrongly() -> None:
    with pytest.raises(AgentConfigInvalid):
        run(Agent())


def test_ids_are_derived_from_the_definition() -> None:
    def tool() -> str:
        return ""

    model = TestModel()
    agents = [
        Agent(model),
        Agent(model, instructions="a"),
        Agent(model, instructions="b"),
        Agent(model, tools=[tool]),
        Agent(model, system_prompt="a"),
    ]
    ids = [resolve_agent(agent).id for agent in agents]
    assert len(set(ids)) == len(ids)
    assert resolve_agent(Agent(TestModel(), instructions="a")).id == ids[1]


# ── OpenAI-compatible endpoints ────────────────────────────────────────────────────────────────────────────────────


class Endpoint(BaseModel):
    """What the fake server answers, and what it was asked."""

    status: int = 200
    content: str | None = None
    arguments: str | None = '{"ok": true}'
    headers: dict[str, str] = {}
    asked: list[dict[str, object]] = []
    keys: list[str] = []
    url: str = ""


@contextmanager
def serving(endpoint: Endpoint) -> Generator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body: dict[str, object] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.asked.append(body)
            endpoint.keys.append(self.headers["Authorization"])
            message: dict[str, object] = {"role": "assistant", "content": endpoint.content}
            if endpoint.content is None:
                function = {"name": "final_result", "arguments": endpoint.arguments}
                message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
            answer: dict[str, object] = {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "fake-model-1",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
            }
            refusal = {"error": {"message": f"no, {self.headers['Authorization']}", "type": "some_error"}}
            payload = json.dumps(answer if endpoint.status == 200 else refusal).encode()
            self.send_response(endpoint.status)
            for name, value in {"Content-Type": "application/json", **endpoint.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:
            """Tests are silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        with models.override_allow_model_requests(True):
            yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_endpoint_is_asked_with_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = openai_compatible(instructions="Be fair.")
    with serving(Endpoint()) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", "key-from-env")
        monkeypatch.setenv("SMITHERS_MODEL", "small-one")
        run(agent)
        result = run(agent)  # in another event loop, where connections of the first would fail
    assert result.output == Verdict(ok=True)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (11, 7)
    assert result.model == "fake-model-1"
    assert endpoint.keys == ["Bearer key-from-env"] * 2
    assert endpoint.asked[0]["model"] == "small-one"
    assert "Be fair." in str(endpoint.asked[0]["messages"])


def test_a_server_without_tool_calls_is_told_the_schema() -> None:
    with serving(Endpoint(content='Here: {"ok": true}')) as endpoint:
        agent = openai_compatible("m", base_url=endpoint.url, api_key="k-12345678", native=False)
        assert run(agent).output == Verdict(ok=True)
    assert "tools" not in endpoint.asked[0]
    assert '"properties"' in str(endpoint.asked[0]["messages"]).replace("\\", "")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, AgentQuotaExceeded), (401, AgentAuthFailed), (404, AgentConfigInvalid), (500, AgentError)],
)
def test_refusals_are_typed_asked_once_and_never_show_the_key(status: int, kind: type[AgentError]) -> None:
    with serving(Endpoint(status=status, headers={"Retry-After": "30"})) as endpoint:
        agent = openai_compatible("m", base_url=endpoint.url, api_key="very-private-value")
        with pytest.raises(AgentError) as caught:
            run(agent)
    assert type(caught.value) is kind
    assert len(endpoint.asked) == 1
    shown = json.dumps(error_object(caught.value)) + repr(agent) + agent.id + repr(resolve_agent(agent))
    assert "very-private-value" not in shown
    if status == 429:
        assert caught.value.details["quotaResetAtMs"] == NOW_MS + 30_000


def test_an_endpoint_that_is_not_there_is_a_failure_worth_a_retry() -> None:
    with serving(Endpoint()) as endpoint:
        pass
    with models.override_allow_model_requests(True), pytest.raises(AgentError) as caught:
        run(openai_compatible("m", base_url=endpoint.url, api_key="k-12345678"))
    assert caught.value.is_retryable


@pytest.mark.parametrize("missing", ["OPENAI_API_KEY", "SMITHERS_MODEL"])
def test_what_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "SMITHERS_MODEL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv(missing)
    with pytest.raises(AgentConfigInvalid, match=missing):
        run(openai_compatible())


class Order(BaseModel):
    sku: str


def test_tools_of_ours_and_plain_functions_are_offered_with_their_schemas() -> None:
    def count(sku: str) -> int:
        """How many there are."""
        return len(sku)

    @define_tool(name="buy", schema=Order, description="Buy.")
    def buy(args: Order) -> str:
        return args.sku

    @define_tool(name="sell", schema=Order, description="Sell.")
    def sell(args: Order) -> str:
        return args.sku

    with serving(Endpoint()) as endpoint:
        agent = openai_compatible("m", base_url=endpoint.url, api_key="k-12345678", tools=[buy, read, count])
        run(agent, make_call(as_tools=as_pydantic_tools))
    sent = cast("list[dict[str, dict[str, Any]]]", endpoint.asked[0]["tools"])
    offered = {tool["function"]["name"]: tool["function"] for tool in sent}
    assert {"buy", "read", "count"} <= offered.keys()
    assert offered["buy"]["parameters"]["required"] == ["sku"]
    ids = [openai_compatible("m", tools=[tool]).id for tool in (buy, sell, read, count)]
    assert len(set(ids)) == 4


def test_the_key_is_no_part_of_the_id() -> None:
    one, two = (openai_compatible("m", base_url="http://localhost/v1", api_key=key) for key in ("a" * 9, "b" * 9))
    assert one.id == two.id
    assert one.id != openai_compatible("m2", base_url="http://localhost/v1").id
