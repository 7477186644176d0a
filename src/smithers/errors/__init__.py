"""Every error that this project raises: a code, an HTTP status and one sentence.

    SmithersError
    ├── AuthoringError           the workflow is written wrongly; names the element
    │   ├── InvalidElement, DuplicateId, TaskIdRequired, TaskMissingOutput, NestedLoop, …
    │   └── WorkflowRenderFailed, WorkflowLoadFailed
    ├── InvalidInput             a value from outside does not fit; names the field
    ├── RunError                 a run is not there, or not in a state that allows the request
    ├── OwnershipError           another process owns the run, or took it over
    ├── TaskError                one attempt of a task failed; says whether another try can help
    ├── AgentError               what an agent or its provider answered
    ├── ToolError                what a tool could not do
    ├── VcsError                 what git could not do
    └── StorageError             the database refused

Codes are part of the wire contract. `error_object` turns any exception into the persisted form and cannot fail.

The classes are in the modules of this package and are imported from here. Those of work and of requests are loaded at first
use: a short command needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from smithers.errors.authoring import ApprovalOptionsRequired as ApprovalOptionsRequired
from smithers.errors.authoring import AuthoringError as AuthoringError
from smithers.errors.authoring import ContextOutsideWorkflow as ContextOutsideWorkflow
from smithers.errors.authoring import ContinuationTooLarge as ContinuationTooLarge
from smithers.errors.authoring import DependencyDeadlock as DependencyDeadlock
from smithers.errors.authoring import DepNotSatisfied as DepNotSatisfied
from smithers.errors.authoring import DuplicateId as DuplicateId
from smithers.errors.authoring import InputMismatch as InputMismatch
from smithers.errors.authoring import InvalidContinuation as InvalidContinuation
from smithers.errors.authoring import InvalidElement as InvalidElement
from smithers.errors.authoring import InvalidInput as InvalidInput
from smithers.errors.authoring import MissingOutput as MissingOutput
from smithers.errors.authoring import NestedLoop as NestedLoop
from smithers.errors.authoring import SuperviseRequiresDetachOrServe as SuperviseRequiresDetachOrServe
from smithers.errors.authoring import TaskEmptyPrompt as TaskEmptyPrompt
from smithers.errors.authoring import TaskIdRequired as TaskIdRequired
from smithers.errors.authoring import TaskMissingOutput as TaskMissingOutput
from smithers.errors.authoring import TaskRuntimeUnavailable as TaskRuntimeUnavailable
from smithers.errors.authoring import UnknownOutputSchema as UnknownOutputSchema
from smithers.errors.authoring import WorkflowLoadFailed as WorkflowLoadFailed
from smithers.errors.authoring import WorkflowRenderFailed as WorkflowRenderFailed
from smithers.errors.authoring import WorktreeEmptyPath as WorktreeEmptyPath
from smithers.errors.base import DOCS as DOCS
from smithers.errors.base import JsonValue as JsonValue
from smithers.errors.base import SmithersError as SmithersError
from smithers.errors.base import error_object as error_object
from smithers.errors.base import json_safe as json_safe
from smithers.errors.runs import AlreadyDecided as AlreadyDecided
from smithers.errors.runs import AttemptNotFound as AttemptNotFound
from smithers.errors.runs import AutoResumeGaveUp as AutoResumeGaveUp
from smithers.errors.runs import ConfirmationRequired as ConfirmationRequired
from smithers.errors.runs import Forbidden as Forbidden
from smithers.errors.runs import FrameOutOfRange as FrameOutOfRange
from smithers.errors.runs import IterationNotFound as IterationNotFound
from smithers.errors.runs import LateToolCompletion as LateToolCompletion
from smithers.errors.runs import LeaseLost as LeaseLost
from smithers.errors.runs import NodeHasNoOutput as NodeHasNoOutput
from smithers.errors.runs import NodeNotFound as NodeNotFound
from smithers.errors.runs import NotRunOwner as NotRunOwner
from smithers.errors.runs import OwnershipError as OwnershipError
from smithers.errors.runs import ResumeMetadataMismatch as ResumeMetadataMismatch
from smithers.errors.runs import RewindFailed as RewindFailed
from smithers.errors.runs import RunActive as RunActive
from smithers.errors.runs import RunAlreadyExists as RunAlreadyExists
from smithers.errors.runs import RunCancelled as RunCancelled
from smithers.errors.runs import RunError as RunError
from smithers.errors.runs import RunNotActive as RunNotActive
from smithers.errors.runs import RunNotFound as RunNotFound
from smithers.errors.runs import RunNotResumable as RunNotResumable
from smithers.errors.runs import RunOwnerAlive as RunOwnerAlive
from smithers.errors.runs import RunStillRunning as RunStillRunning
from smithers.errors.runs import SideEffectBlocked as SideEffectBlocked
from smithers.errors.runs import TimeTravelError as TimeTravelError
from smithers.errors.runs import TravelBusy as TravelBusy
from smithers.errors.runs import TravelRateLimited as TravelRateLimited
from smithers.errors.runs import UnsafeReload as UnsafeReload
from smithers.errors.runs import UnsupportedSandbox as UnsupportedSandbox
from smithers.errors.runs import WorkflowExecutionFailed as WorkflowExecutionFailed
from smithers.errors.storage import IncompatibleSchema as IncompatibleSchema
from smithers.errors.storage import MalformedOutputRow as MalformedOutputRow
from smithers.errors.storage import MigrationRequired as MigrationRequired
from smithers.errors.storage import OutcomeUnknown as OutcomeUnknown
from smithers.errors.storage import StorageBusy as StorageBusy
from smithers.errors.storage import StorageCorrupt as StorageCorrupt
from smithers.errors.storage import StorageError as StorageError
from smithers.errors.storage import StorageFull as StorageFull
from smithers.errors.storage import StorageReadOnly as StorageReadOnly
from smithers.errors.storage import StorageRefused as StorageRefused
from smithers.errors.storage import StorageSaturated as StorageSaturated
from smithers.errors.storage import StorageUnreachable as StorageUnreachable
from smithers.errors.storage import StoreNotFound as StoreNotFound

if TYPE_CHECKING:
    from smithers.errors.doors import AccountsFileInvalid as AccountsFileInvalid
    from smithers.errors.doors import CronNotFound as CronNotFound
    from smithers.errors.doors import DbNotConfigured as DbNotConfigured
    from smithers.errors.doors import GatewayInsecureBind as GatewayInsecureBind
    from smithers.errors.doors import HostForbidden as HostForbidden
    from smithers.errors.doors import InvalidJson as InvalidJson
    from smithers.errors.doors import InvalidRequest as InvalidRequest
    from smithers.errors.doors import NotFound as NotFound
    from smithers.errors.doors import PayloadTooLarge as PayloadTooLarge
    from smithers.errors.doors import QueueFull as QueueFull
    from smithers.errors.doors import QuotaExceeded as QuotaExceeded
    from smithers.errors.doors import RequestError as RequestError
    from smithers.errors.doors import RunIdRequired as RunIdRequired
    from smithers.errors.doors import ScoreNotFound as ScoreNotFound
    from smithers.errors.doors import ServeInsecureBind as ServeInsecureBind
    from smithers.errors.doors import ServerInsecureBind as ServerInsecureBind
    from smithers.errors.doors import ServerIntegrationsRequireDb as ServerIntegrationsRequireDb
    from smithers.errors.doors import StateConflict as StateConflict
    from smithers.errors.doors import TicketNotFound as TicketNotFound
    from smithers.errors.doors import Unauthorized as Unauthorized
    from smithers.errors.work import AgentAuthFailed as AgentAuthFailed
    from smithers.errors.work import AgentConfigInvalid as AgentConfigInvalid
    from smithers.errors.work import AgentError as AgentError
    from smithers.errors.work import AgentQuotaExceeded as AgentQuotaExceeded
    from smithers.errors.work import AgentSessionLost as AgentSessionLost
    from smithers.errors.work import ApprovalDenied as ApprovalDenied
    from smithers.errors.work import AttemptNotFinished as AttemptNotFinished
    from smithers.errors.work import DiffTooLarge as DiffTooLarge
    from smithers.errors.work import ExecutorUnavailable as ExecutorUnavailable
    from smithers.errors.work import ForkError as ForkError
    from smithers.errors.work import HeartbeatNotJson as HeartbeatNotJson
    from smithers.errors.work import HeartbeatTooLarge as HeartbeatTooLarge
    from smithers.errors.work import InvalidOutput as InvalidOutput
    from smithers.errors.work import LoopMaxReached as LoopMaxReached
    from smithers.errors.work import ProcessIdleTimeout as ProcessIdleTimeout
    from smithers.errors.work import ProcessSpawnFailed as ProcessSpawnFailed
    from smithers.errors.work import ProcessTimeout as ProcessTimeout
    from smithers.errors.work import ReplayUnsafe as ReplayUnsafe
    from smithers.errors.work import SchedulerError as SchedulerError
    from smithers.errors.work import TaskAborted as TaskAborted
    from smithers.errors.work import TaskError as TaskError
    from smithers.errors.work import TaskFailed as TaskFailed
    from smithers.errors.work import TaskHeartbeatTimeout as TaskHeartbeatTimeout
    from smithers.errors.work import TaskNotPortable as TaskNotPortable
    from smithers.errors.work import TaskTimeout as TaskTimeout
    from smithers.errors.work import ToolCommandFailed as ToolCommandFailed
    from smithers.errors.work import ToolContentTooLarge as ToolContentTooLarge
    from smithers.errors.work import ToolError as ToolError
    from smithers.errors.work import ToolFileTooLarge as ToolFileTooLarge
    from smithers.errors.work import ToolFileUnavailable as ToolFileUnavailable
    from smithers.errors.work import ToolGitRemoteDisabled as ToolGitRemoteDisabled
    from smithers.errors.work import ToolGrepFailed as ToolGrepFailed
    from smithers.errors.work import ToolNetworkDisabled as ToolNetworkDisabled
    from smithers.errors.work import ToolPatchFailed as ToolPatchFailed
    from smithers.errors.work import ToolPatchTooLarge as ToolPatchTooLarge
    from smithers.errors.work import ToolPathEscape as ToolPathEscape
    from smithers.errors.work import ToolPathInvalid as ToolPathInvalid
    from smithers.errors.work import ToolSandboxUnavailable as ToolSandboxUnavailable
    from smithers.errors.work import VcsError as VcsError
    from smithers.errors.work import VcsNotFound as VcsNotFound
    from smithers.errors.work import WaitTimeout as WaitTimeout
    from smithers.errors.work import WorkerLost as WorkerLost
    from smithers.errors.work import WorkingTreeDirty as WorkingTreeDirty
    from smithers.errors.work import WorktreeCreateFailed as WorktreeCreateFailed

_LATER = ("work", "doors")


def __getattr__(name: str) -> object:
    if not name.startswith("_"):
        for place in _LATER:
            found: object = vars(import_module(f"{__name__}.{place}")).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    later = (name for place in _LATER for name in vars(import_module(f"{__name__}.{place}")))
    return sorted({*globals(), *(name for name in later if name[0].isupper())})
