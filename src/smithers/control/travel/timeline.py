"""Timeline: the frames of a run, and the runs that were forked from them, as a tree."""

from __future__ import annotations

from dataclasses import dataclass

from smithers.control.control import Control
from smithers.store.sql import branching, reads
from smithers.store.sql.branching import BranchRow


@dataclass(frozen=True, slots=True)
class FrameMark:
    """A frame with a tree of its own. Steps in between, which left the tree as it was, can be travelled to as well."""

    frame_no: int
    created_at_ms: int
    content_hash: str
    reason: str


@dataclass(frozen=True, slots=True)
class Jump:
    """A rewind that the run has been through."""

    from_frame_no: int
    to_frame_no: int
    caller: str | None
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run's frames, its rewinds, and its forks by the frame that they were made from, each with its own timeline."""

    run_id: str
    status: str
    frame_no: int
    label: str | None
    parent_run_id: str | None
    parent_frame_no: int | None
    frames: tuple[FrameMark, ...]
    jumps: tuple[Jump, ...]
    forks: tuple[Timeline, ...]

    def wire(self) -> dict[str, object]:
        """As it is sent: forks stand at the newest frame with a tree of its own up to theirs."""
        at: dict[int, list[Timeline]] = {}
        for fork in self.forks:
            frames = [frame.frame_no for frame in self.frames if frame.frame_no <= (fork.parent_frame_no or 0)]
            at.setdefault(frames[-1] if frames else 0, []).append(fork)
        return {
            "runId": self.run_id,
            "status": self.status,
            "frameNo": self.frame_no,
            "branchLabel": self.label,
            "parentRunId": self.parent_run_id,
            "parentFrameNo": self.parent_frame_no,
            "frames": [
                {
                    "frameNo": frame.frame_no,
                    "createdAtMs": frame.created_at_ms,
                    "contentHash": frame.content_hash,
                    "reason": frame.reason,
                    "forks": [fork.wire() for fork in at.get(frame.frame_no, ())],
                }
                for frame in self.frames
            ],
            "forks": [fork.wire() for fork in at.get(0, ())],
            "jumps": [
                {
                    "fromFrameNo": jump.from_frame_no,
                    "toFrameNo": jump.to_frame_no,
                    "caller": jump.caller,
                    "timestampMs": jump.timestamp_ms,
                }
                for jump in self.jumps
            ],
        }


async def timeline(control: Control, run_id: str, *, depth: int = 16) -> Timeline:
    """A run's timeline, with forks of forks down to `depth`. Raises `RunNotFound`."""
    return await control.store.aread(lambda c: _read(c, run_id, branching.branch_of(c, run_id), depth))


def _read(connection: reads.Session, run_id: str, branch: BranchRow | None, depth: int) -> Timeline:
    run = reads.run(connection, run_id)
    frames = connection.execute(
        "SELECT frame_no, created_at_ms, tree_hash, reason FROM _smithers_frames WHERE run_id = ? ORDER BY frame_no",
        (run_id,),
    )
    marks = tuple(FrameMark(*row) for row in frames)
    jumps = connection.execute(
        "SELECT from_frame, to_frame, caller, timestamp_ms FROM _smithers_jumps WHERE run_id = ? ORDER BY seq",
        (run_id,),
    )
    jumped = tuple(Jump(*row) for row in jumps)
    forks = branching.forks_of(connection, run_id) if depth > 0 else []
    return Timeline(
        run_id=run_id,
        status=run.status,
        frame_no=run.frame_no,
        label=None if branch is None else branch.branch_label,
        parent_run_id=None if branch is None else branch.parent_run_id,
        parent_frame_no=None if branch is None else branch.parent_frame_no,
        frames=marks,
        jumps=jumped,
        forks=tuple(_read(connection, fork.run_id, fork, depth - 1) for fork in forks),
    )
