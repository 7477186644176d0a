"""Has one agent write a Python function and another review it, again and again until the tests and the reviewer agree.

    smithers up examples/agent_loop.py

Without a model this runs on two scripted ones (`agent_loop_models.py`): the first answer has a fault that the tests find,
the second is right. With `SMITHERS_MODEL`, `OPENAI_API_KEY` and, for other providers, `OPENAI_BASE_URL`, the same loop
runs on that model, on any task:

    smithers up examples/agent_loop.py --input '{"goal": "def slug(text: str) -> str: …", "tests": "assert slug(\"A b\") == \"a-b\""}'

What the implementer writes is executed, in a process of its own with a time limit, but with all the rights of whoever
starts this: give it only to models that you would let write code for you.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from agent_loop_models import implementer as scripted_implementer
from agent_loop_models import reviewer as scripted_reviewer
from pydantic import BaseModel, Field

from smithers import Context, Loop, Task, Workflow, create_smithers, openai_compatible, task_runtime

GOAL = "def to_roman(number: int) -> str: the Roman numeral of a number from 1 to 3999; ValueError for any other."
TESTS = """\
for number, numeral in {1: "I", 3: "III", 9: "IX", 14: "XIV", 1994: "MCMXCIV", 3999: "MMMCMXCIX"}.items():
    assert to_roman(number) == numeral, f"to_roman({number}) is {to_roman(number)!r}, not {numeral!r}"
for wrong in (0, -1, 4000):
    try:
        to_roman(wrong)
    except ValueError:
        continue
    raise AssertionError(f"to_roman({wrong}) must raise ValueError")
"""


class Request(BaseModel):
    """What to write, and the statements that must run without an error after it."""

    goal: str = GOAL
    tests: str = TESTS
    max_rounds: int = Field(5, ge=1)
    folder: str = Field(
        ".smithers/agent-loop", description="where the code goes, below the run's root folder or absolute"
    )


class Code(BaseModel):
    """A complete Python module, and what its author has to say about it."""

    source: str
    note: str


class TestRun(BaseModel):
    """How the tests went."""

    passed: bool
    said: str


class Review(BaseModel):
    """What the reviewer thinks. `feedback` goes to the implementer if it is not approved."""

    approved: bool
    feedback: str


class Accepted(BaseModel):
    """The code that was accepted."""

    file: str
    rounds: int


smithers, outputs = create_smithers(
    {"code": Code, "test_run": TestRun, "review": Review, "output": Accepted}, input=Request
)

uses_a_real_model = bool(os.environ.get("SMITHERS_MODEL"))  # noqa: TID251 - a script of its own, not a part of the package
implementer: object = scripted_implementer
reviewer: object = scripted_reviewer
if uses_a_real_model:
    implementer = openai_compatible(instructions="You write small, correct, plain Python.", id="implementer")
    reviewer = openai_compatible(
        instructions="You review Python code. Approve what is correct and clear.", id="reviewer"
    )


def ask_for_code(request: Request, code: Code | None, tests: TestRun | None, review: Review | None) -> str:
    """The implementer's prompt: the goal, and in later rounds what was wrong."""
    parts = [f"Write a complete Python module with this function:\n{request.goal}"]
    if code is not None:
        parts.append(f"Your last version:\n{code.source}")
    if tests is not None and not tests.passed:
        parts.append(f"The tests failed:\n{tests.said}")
    if review is not None and review.feedback:
        parts.append(f"The reviewer says:\n{review.feedback}")
    return "\n\n".join(parts)


def ask_for_review(request: Request, code: Code, check: TestRun) -> str:
    """The reviewer's prompt."""
    result = "The tests pass." if check.passed else f"The tests fail:\n{check.said}"
    return f"Goal:\n{request.goal}\n\nCode:\n{code.source}\n\n{result}\n\nApprove it only if the tests pass."


def run_tests(request: Request, code: Code) -> TestRun:
    """Write the code to a file and run the tests on it."""
    file = target(request)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code.source, encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", f"{code.source}\n\n{request.tests}"],
            cwd=file.parent,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return TestRun(passed=False, said="the tests did not end within 20 seconds")
    said = (done.stderr.strip().splitlines() or ["all tests pass"])[-1]
    return TestRun(passed=done.returncode == 0, said=said)


def target(request: Request) -> Path:
    """The file that the code goes to."""
    return task_runtime().root_dir / request.folder / f"{task_runtime().run_id}.py"


def accept(request: Request, rounds: int, code: Code) -> Accepted:
    """Say where the accepted code is."""
    target(request).write_text(code.source, encoding="utf-8")
    return Accepted(file=str(target(request)), rounds=rounds)


@smithers
def agent_loop(ctx: Context[Request]) -> Workflow:
    """Implement, test, review, until both agree; fail if they never do."""
    request = ctx.input
    code, tests = ctx.latest(Code, "implement"), ctx.latest(TestRun, "test")
    review = ctx.latest(Review, "review")
    done = review is not None and review.approved and tests is not None and tests.passed
    return Workflow("agent-loop")[
        Loop("rounds", until=done, max_iterations=request.max_rounds, on_max_reached="fail")[
            Task("implement", output=outputs.code, agent=implementer)[ask_for_code(request, code, tests, review)],
            Task("test", output=outputs.test_run, needs={"code": "implement"})[partial(run_tests, request)],
            Task(
                "review",
                output=outputs.review,
                agent=reviewer,
                deps={"code": Code, "check": TestRun},
                needs={"code": "implement", "check": "test"},
            )[partial(ask_for_review, request)],
        ],
        Task("accept", output=outputs.output, needs={"code": "implement"})[
            partial(accept, request, ctx.iteration_count(Review, "review"))
        ],
    ]
