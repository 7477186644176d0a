"""Releases a Python package to a registry that is a folder, and takes everything back if a step fails.

    smithers up examples/release.py --input '{"version": "1.4.2", "bump": "minor"}' --wait
    smithers up examples/release.py --input '{"fail_at": "announce"}' --wait    # see it take back what it did

Without `--wait` the command ends at the soak, which is a timer, and `smithers resume` goes on after it.

The package's sources are written to a temporary folder first, so that the example needs nothing. Archives are built and
checks run at the same time; a person agrees (`"ask": true`) or the checks alone decide; then tag, publication and, after
a soak, the announcement follow as a saga. Whatever happens, the temporary folder is removed at the end.

The building, checking and publishing itself is in `release_steps.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import release_steps as steps
from pydantic import BaseModel, Field
from release_steps import Archive, CheckResult, Manifest, Plan, Undone

from smithers import (
    Approval,
    Context,
    Parallel,
    Saga,
    SagaStep,
    Sequence,
    Task,
    Timer,
    TryCatchFinally,
    Workflow,
    create_smithers,
)


class Request(BaseModel):
    """What to release."""

    name: str = Field("sample", pattern=r"^[a-z][a-z0-9_]{0,63}$")
    version: str = Field("0.1.0", description="the version that is out now")
    bump: Literal["major", "minor", "patch"] = "patch"
    registry: str = Field(
        ".smithers/registry", description="the registry's folder, below the run's root folder or absolute"
    )
    soak: str = Field("200ms", description="how long to wait between publication and announcement")
    ask: bool = Field(False, description="ask a person before anything is published")
    fail_at: Literal["nothing", "check", "tag", "publish", "announce"] = Field(
        "nothing", description="the step that is made to fail, to see what happens then"
    )


class Decision(BaseModel):
    """What the person said."""

    approved: bool
    note: str | None = None


class Done(BaseModel):
    """One step of the release that was carried out, and what it left behind."""

    step: str
    path: str


smithers, outputs = create_smithers(
    {
        "plan": Plan,
        "archive": Archive,
        "check": CheckResult,
        "manifest": Manifest,
        "decision": Decision,
        "done": Done,
        "undone": Undone,
        "cleaned": steps.Cleaned,
        "output": steps.Release,
    },
    input=Request,
)


def build_and_check(request: Request) -> Sequence:
    """Everything that can still be thrown away."""
    return Sequence("build")[
        Parallel("artifacts")[
            Task("sdist", output=outputs.archive, deps={"plan": Plan})[steps.build_sdist],
            Task("wheel", output=outputs.archive, deps={"plan": Plan})[steps.build_wheel],
            Task("compiles", output=outputs.check, deps={"plan": Plan})[steps.check_compiles],
            Task("tests", output=outputs.check, deps={"plan": Plan}, timeout_ms=60_000)[
                partial(steps.check_tests, request.fail_at == "check")
            ],
        ],
        Task("manifest", output=outputs.manifest, deps={"sdist": Archive, "wheel": Archive})[steps.make_manifest],
    ]


def ship(request: Request) -> Saga:
    """Everything that others can see: each step with what takes it back."""
    return Saga("ship", on_failure="compensate-and-fail")[
        SagaStep(
            "tag",
            compensation=Task("untag", output=outputs.undone, deps={"plan": Plan})[
                partial(steps.remove_tag, request.registry)
            ],
        )[
            Task("tag-do", output=outputs.done, deps={"plan": Plan})[
                partial(steps.write_tag, request.registry, request.fail_at == "tag")
            ]
        ],
        SagaStep(
            "publish",
            compensation=Task("yank", output=outputs.undone, deps={"plan": Plan})[
                partial(steps.yank, request.registry)
            ],
        )[
            Task("publish-do", output=outputs.done, deps={"plan": Plan, "manifest": Manifest})[
                partial(steps.publish, request.registry, request.fail_at == "publish")
            ]
        ],
        SagaStep("announce")[
            Sequence[
                Timer("soak", duration=request.soak),
                Task("announce-do", output=outputs.done, deps={"plan": Plan})[
                    partial(steps.announce, request.registry, request.fail_at == "announce")
                ],
            ]
        ],
    ]


@smithers
def release(ctx: Context[Request]) -> Workflow:
    """Plan, build, check, ask, ship; clean up in every case."""
    request = ctx.input
    return Workflow("release")[
        TryCatchFinally(
            "release",
            try_=[
                Task("plan", output=outputs.plan)[
                    partial(steps.make_plan, request.name, request.version, request.bump)
                ],
                build_and_check(request),
                Approval(
                    "go",
                    output=outputs.decision,
                    request={"title": f"Release {request.name} ({request.bump} after {request.version})?"},
                    auto_approve=not request.ask,
                ),
                ship(request),
                Task("released", output=outputs.output, deps={"plan": Plan, "manifest": Manifest})[steps.summarise],
            ],
            finally_=Task("clean-up", output=outputs.cleaned, deps={"plan": Plan}, deps_optional=True)[steps.clean_up],
        )
    ]
