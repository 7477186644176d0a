"""Smithers: a durable orchestrator for AI workflows. See `docs/`; everything that users import is named here.

Names are loaded at first use, so that importing this package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smithers.agents.command import CommandAgent as CommandAgent
    from smithers.agents.interface import Agent as Agent
    from smithers.agents.pydantic_ai import openai_compatible as openai_compatible
    from smithers.client.client import GatewayClient as GatewayClient
    from smithers.client.errors import GatewayConnectionLost as GatewayConnectionLost
    from smithers.client.errors import GatewayError as GatewayError
    from smithers.client.frames import RunEvent as RunEvent
    from smithers.client.sync_client import SyncGatewayClient as SyncGatewayClient
    from smithers.components.composites import Saga as Saga
    from smithers.components.composites import SagaStep as SagaStep
    from smithers.components.composites import Subflow as Subflow
    from smithers.components.composites import TryCatchFinally as TryCatchFinally
    from smithers.components.context import Context as Context
    from smithers.components.context import use_ctx as use_ctx
    from smithers.components.context import use_patched as use_patched
    from smithers.components.element import Element as Element
    from smithers.components.flow import Branch as Branch
    from smithers.components.flow import ContinueAsNew as ContinueAsNew
    from smithers.components.flow import Loop as Loop
    from smithers.components.flow import MergeQueue as MergeQueue
    from smithers.components.flow import Parallel as Parallel
    from smithers.components.flow import Sequence as Sequence
    from smithers.components.flow import Workflow as Workflow
    from smithers.components.flow import continue_as_new as continue_as_new
    from smithers.components.gates import Approval as Approval
    from smithers.components.gates import ApprovalGate as ApprovalGate
    from smithers.components.gates import AutoApprove as AutoApprove
    from smithers.components.gates import HumanTask as HumanTask
    from smithers.components.outputs import Output as Output
    from smithers.components.outputs import Outputs as Outputs
    from smithers.components.task import CachePolicy as CachePolicy
    from smithers.components.task import RetryPolicy as RetryPolicy
    from smithers.components.task import SideEffect as SideEffect
    from smithers.components.task import Task as Task
    from smithers.components.waits import Signal as Signal
    from smithers.components.waits import Timer as Timer
    from smithers.components.waits import WaitForEvent as WaitForEvent
    from smithers.components.workflow import SmithersWorkflow as SmithersWorkflow
    from smithers.components.workflow import create_smithers as create_smithers
    from smithers.components.worktree import Worktree as Worktree
    from smithers.control.adapter import SmithersDb as SmithersDb
    from smithers.control.webhooks import WebhookSource as WebhookSource
    from smithers.engine.engine import Engine as Engine
    from smithers.engine.loading import load_workflow as load_workflow
    from smithers.engine.result import RunResult as RunResult
    from smithers.engine.run import close_engines as close_engines
    from smithers.engine.run import run_workflow as run_workflow
    from smithers.engine.run import run_workflow_sync as run_workflow_sync
    from smithers.engine.runtime import task_runtime as task_runtime
    from smithers.errors import SmithersError as SmithersError
    from smithers.gateway.auth.config import JwtAuth as JwtAuth
    from smithers.gateway.auth.config import TokenAuth as TokenAuth
    from smithers.gateway.auth.config import TokenGrant as TokenGrant
    from smithers.gateway.auth.config import TrustedProxyAuth as TrustedProxyAuth
    from smithers.gateway.config import RunHook as RunHook
    from smithers.gateway.config import SignalHook as SignalHook
    from smithers.gateway.config import UiConfig as UiConfig
    from smithers.gateway.config import WebhookConfig as WebhookConfig
    from smithers.gateway.gateway import Gateway as Gateway
    from smithers.scheduler.states import RunStatus as RunStatus
    from smithers.serve.app import create_serve_app as create_serve_app
    from smithers.server.start import start_server as start_server
    from smithers.settings import Settings as Settings
    from smithers.tools.builtins import bash as bash
    from smithers.tools.builtins import edit as edit
    from smithers.tools.builtins import grep as grep
    from smithers.tools.builtins import read as read
    from smithers.tools.builtins import tools as tools
    from smithers.tools.builtins import write as write
    from smithers.tools.define import define_tool as define_tool

_HOMES = {
    "agents.command": ("CommandAgent",),
    "agents.interface": ("Agent",),
    "agents.pydantic_ai": ("openai_compatible",),
    "client.client": ("GatewayClient",),
    "client.errors": ("GatewayConnectionLost", "GatewayError"),
    "client.frames": ("RunEvent",),
    "client.sync_client": ("SyncGatewayClient",),
    "components.composites": ("Saga", "SagaStep", "Subflow", "TryCatchFinally"),
    "components.context": ("Context", "use_ctx", "use_patched"),
    "components.element": ("Element",),
    "components.flow": (
        "Branch",
        "ContinueAsNew",
        "Loop",
        "MergeQueue",
        "Parallel",
        "Sequence",
        "Workflow",
        "continue_as_new",
    ),
    "components.gates": ("Approval", "ApprovalGate", "AutoApprove", "HumanTask"),
    "components.outputs": ("Output", "Outputs"),
    "components.task": ("CachePolicy", "RetryPolicy", "SideEffect", "Task"),
    "components.waits": ("Signal", "Timer", "WaitForEvent"),
    "components.workflow": ("SmithersWorkflow", "create_smithers"),
    "components.worktree": ("Worktree",),
    "control.adapter": ("SmithersDb",),
    "control.webhooks": ("WebhookSource",),
    "engine.engine": ("Engine",),
    "engine.loading": ("load_workflow",),
    "engine.result": ("RunResult",),
    "engine.run": ("close_engines", "run_workflow", "run_workflow_sync"),
    "engine.runtime": ("task_runtime",),
    "errors": ("SmithersError",),
    "gateway.auth.config": ("JwtAuth", "TokenAuth", "TokenGrant", "TrustedProxyAuth"),
    "gateway.config": ("RunHook", "SignalHook", "UiConfig", "WebhookConfig"),
    "gateway.gateway": ("Gateway",),
    "scheduler.states": ("RunStatus",),
    "serve.app": ("create_serve_app",),
    "server.start": ("start_server",),
    "settings": ("Settings",),
    "tools": ("bash", "define_tool", "edit", "grep", "read", "write"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # spelled out for type checkers; `tests/unit/test_package.py` holds it to the table above
    "Agent",
    "Approval",
    "ApprovalGate",
    "AutoApprove",
    "Branch",
    "CachePolicy",
    "CommandAgent",
    "Context",
    "ContinueAsNew",
    "Element",
    "Engine",
    "Gateway",
    "GatewayClient",
    "GatewayConnectionLost",
    "GatewayError",
    "HumanTask",
    "JwtAuth",
    "Loop",
    "MergeQueue",
    "Output",
    "Outputs",
    "Parallel",
    "RetryPolicy",
    "RunEvent",
    "RunHook",
    "RunResult",
    "RunStatus",
    "Saga",
    "SagaStep",
    "Sequence",
    "Settings",
    "SideEffect",
    "Signal",
    "SignalHook",
    "SmithersDb",
    "SmithersError",
    "SmithersWorkflow",
    "Subflow",
    "SyncGatewayClient",
    "Task",
    "Timer",
    "TokenAuth",
    "TokenGrant",
    "TrustedProxyAuth",
    "TryCatchFinally",
    "UiConfig",
    "WaitForEvent",
    "WebhookConfig",
    "WebhookSource",
    "Workflow",
    "Worktree",
    "bash",
    "close_engines",
    "continue_as_new",
    "create_serve_app",
    "create_smithers",
    "define_tool",
    "edit",
    "grep",
    "load_workflow",
    "openai_compatible",
    "read",
    "run_workflow",
    "run_workflow_sync",
    "start_server",
    "task_runtime",
    "use_ctx",
    "use_patched",
    "write",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
