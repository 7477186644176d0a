-- What files were, before a run changed any and after each attempt that did. The files themselves are commits in the
-- repositories that they belong to.

-- A folder that tasks of a run work in. base_ref: the commit that holds it as it was before. problem: why it has none.
CREATE TABLE _smithers_workspaces (
    run_id TEXT NOT NULL,
    cwd TEXT NOT NULL,
    vcs_type TEXT,
    vcs_root TEXT,
    git_dir TEXT,
    base_ref TEXT,
    base_tree TEXT,
    problem TEXT,
    is_worktree INTEGER NOT NULL DEFAULT 0,
    branch TEXT,
    launch_root TEXT,
    created_at_ms INTEGER NOT NULL,
    removed_at_ms INTEGER,
    PRIMARY KEY (run_id, cwd)
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_workspaces_worktrees ON _smithers_workspaces (created_at_ms)
    WHERE is_worktree = 1 AND removed_at_ms IS NULL;

-- position counts the checkpoints of a run in the order in which they became durable.
CREATE TABLE _smithers_workspace_checkpoints (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    frame_no INTEGER NOT NULL,
    cwd TEXT NOT NULL,
    commit_id TEXT,
    tree_id TEXT,
    problem TEXT,
    source TEXT NOT NULL,
    label TEXT,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, attempt, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_workspace_checkpoints_by_position ON _smithers_workspace_checkpoints (run_id, position);

CREATE TABLE _smithers_node_diffs (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    base_ref TEXT NOT NULL,
    target_ref TEXT NOT NULL,
    diff_json TEXT NOT NULL,
    computed_at_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, base_ref)
) STRICT, WITHOUT ROWID;
