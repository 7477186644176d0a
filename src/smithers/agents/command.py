"""External programs as agents: any command line that takes a prompt and prints an answer.

Running the program is in `process.py`, reading its output in `stream.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from smithers.agents import stream
from smithers.agents.calls import AgentCall, AgentResponse
from smithers.agents.classify import classify_failure, is_limit_banner
from smithers.agents.environment import current_environment
from smithers.agents.interface import TurnFailed, definition_id, refuse_tool_list
from smithers.agents.process import Finished, Limits, run_process
from smithers.errors import AgentConfigInvalid, SmithersError
from smithers.observability.redaction import is_secret_name, redact

_TAIL_CHARS = 2_000
_MIN_SECRET = 8
_WRAPPER_KEYS = ("answer", "result", "text", "content", "message", "error")
"""A document with one of these keys, if the schema has it not, wraps the answer; any other document is the answer."""


class CommandAgent:
    """Runs a command for each call and reads its answer from standard output.

    The command runs in `cwd`, else in the task's folder, with the environment of this process, `env`, and
    `SMITHERS_RUN_ID`, `SMITHERS_NODE_ID`, `SMITHERS_ITERATION`, `SMITHERS_ATTEMPT`. It and all its children are killed
    when it ends, when the task is cancelled, and at a deadline.

    Args:
        argv: program and arguments; no shell is involved.
        prompt_via: `"stdin"`, or `"arg"`: appended as the last argument.
        parser: `"text"`: all of standard output; `"json"`: one document; `"jsonl"`: a line an event.
        env: additional variables; values of those named like a credential never appear in errors.
        timeout_s: seconds in all; None: only the task's own timeout counts.
        idle_timeout_s: seconds without output.
        max_output_bytes: how much is kept of each stream; of more, the end.
        id: replaces the id that is derived from the program's name, arguments (as digest) and parser.

    Raises:
        AgentConfigInvalid: an argument does not fit.
    """

    engine = "command"
    supports_native_structured_output = False
    touches_files = True
    """It may change files in the task's folder, which are stored before and after."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        prompt_via: Literal["stdin", "arg"] = "stdin",
        parser: Literal["text", "json", "jsonl"] = "text",
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        timeout_s: float | None = None,
        idle_timeout_s: float | None = None,
        max_output_bytes: int = 4_000_000,
        id: str | None = None,
        model: str = "",
    ) -> None:
        if isinstance(argv, str) or not argv:
            raise AgentConfigInvalid("argv of CommandAgent must be a list: the program, then its arguments")
        if prompt_via not in ("stdin", "arg") or parser not in ("text", "json", "jsonl"):
            raise AgentConfigInvalid(f"CommandAgent does not know prompt_via={prompt_via!r} with parser={parser!r}")
        for name, value in (("timeout_s", timeout_s), ("idle_timeout_s", idle_timeout_s)):
            if value is not None and not value > 0:
                raise AgentConfigInvalid(f"{name} of CommandAgent must be positive, not {value}")
        if max_output_bytes < 1:
            raise AgentConfigInvalid(f"max_output_bytes of CommandAgent must be positive, not {max_output_bytes}")
        self._argv = tuple(argv)
        self._prompt_via = prompt_via
        self._parser = parser
        self._env = dict(env or {})
        self._cwd = Path(cwd) if cwd is not None else None
        self._limits = Limits(timeout_s, idle_timeout_s, max_output_bytes)
        self.model = model
        program = Path(self._argv[0]).name
        self.id = id or definition_id(
            f"command:{program}", [redact(arg) for arg in self._argv], prompt_via, parser, model, sorted(self._env)
        )

    def __repr__(self) -> str:
        return f"CommandAgent({self.id!r})"

    async def generate(self, call: AgentCall) -> AgentResponse:
        """Run the command once.

        Raises:
            ProcessSpawnFailed, ProcessTimeout, ProcessIdleTimeout: as their names say.
            TurnFailed: the program failed or reported a failure; holds the typed error.
        """
        refuse_tool_list(call, self.id)
        lines = stream.JsonLines(call.on_event, self.engine) if self._parser == "jsonl" else None

        def on_text(text: str, name: str) -> None:
            call.on_text(text, name)
            if lines is not None and name == "stdout":
                lines.feed(text)

        by_argument = self._prompt_via == "arg"
        done = await run_process(
            [*self._argv, call.prompt] if by_argument else self._argv,
            stdin=None if by_argument else call.prompt.encode("utf-8", "replace"),
            cwd=self._cwd or call.root_dir,
            env=self._environment(call),
            limits=self._limits,
            on_text=on_text,
        )
        answer = lines.close() if lines is not None else self._read_document(done.stdout, call)
        response = self._response(done, answer)
        error = self._failure(done, answer, response, call.now())
        if error is not None:
            raise TurnFailed(error, answer.usage, answer.model)
        return response

    def _environment(self, call: AgentCall) -> dict[str, str]:
        return {
            **current_environment(),
            **self._env,
            "SMITHERS_RUN_ID": call.run_id,
            "SMITHERS_NODE_ID": call.node_id,
            "SMITHERS_ITERATION": str(call.iteration),
            "SMITHERS_ATTEMPT": str(call.attempt),
        }

    def _read_document(self, stdout: str, call: AgentCall) -> stream.Answer:
        document = stream.parse_object(stdout) if self._parser == "json" else None
        if document is None:
            return stream.Answer()
        fields = call.output_type.model_fields
        is_answer = not any(
            key in document and key not in fields for key in ("answer", "result", "text", "content", "message")
        )
        kind = document.get("type")
        return stream.Answer(
            final=document if is_answer else stream.final_answer(document),
            usage=stream.find_usage(document),
            error=None if is_answer else stream.find_error(document, kind if isinstance(kind, str) else ""),
        )

    def _response(self, done: Finished, answer: stream.Answer) -> AgentResponse:
        """The answer: of the final event or document, else the last text of the stream, else all of standard output."""
        if answer.final is not None and not isinstance(answer.final, str):
            return AgentResponse(output=answer.final, usage=answer.usage, model=answer.model)
        text = answer.final if isinstance(answer.final, str) else answer.last_text or done.stdout
        return AgentResponse(text=text, usage=answer.usage, model=answer.model)

    def _failure(
        self, done: Finished, answer: stream.Answer, response: AgentResponse, now: datetime
    ) -> SmithersError | None:
        told = answer.error
        if told is None and done.exit_code == 0:
            if not is_limit_banner(response.text):
                return None
            told = response.text
        secrets = self._secrets()
        stderr = redact(done.stderr, secrets).strip()
        said = redact(told or "", secrets) or stderr or redact(done.stdout, secrets).strip()
        details: dict[str, object] = {"command": self._argv[0], "exitCode": done.exit_code}
        if stderr:
            details["stderrTail"] = stderr[-_TAIL_CHARS:]
        said = said or f"it ended with exit code {done.exit_code} and said nothing"
        return classify_failure(said, now=now, details=details)

    def _secrets(self) -> list[str]:
        own = [value for name, value in self._env.items() if is_secret_name(name)]
        inherited = [v for name, v in current_environment().items() if is_secret_name(name) and len(v) >= _MIN_SECRET]
        return sorted({*own, *inherited}, key=len, reverse=True)
