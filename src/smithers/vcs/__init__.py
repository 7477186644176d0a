"""Version control, below the engine: snapshots of folders as commits that nobody sees, what differs between them, worktrees.

Knows folders and repositories, not runs. What a run keeps of it is `smithers.store.sql.checkpoints`' and
`smithers.engine.workspaces`'.
"""
