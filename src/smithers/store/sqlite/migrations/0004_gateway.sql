-- What a gateway keeps beside runs: schedules, documents, memory facts, scores; and what its lists of runs go by.

-- Written once, at launch. The creation time is repeated here so that one index can hold what a list filters and orders by;
-- listed_as is the workflow's key where it is not registered under its own name: the given key, else the name of the
-- workflow's file without its ending, else the workflow's name.
ALTER TABLE _smithers_run_specs ADD COLUMN workflow_key TEXT;
ALTER TABLE _smithers_run_specs ADD COLUMN listed_as TEXT NOT NULL DEFAULT '';
ALTER TABLE _smithers_run_specs ADD COLUMN is_system INTEGER NOT NULL DEFAULT 0;
ALTER TABLE _smithers_run_specs ADD COLUMN started_by_json TEXT;
ALTER TABLE _smithers_run_specs ADD COLUMN created_at_ms INTEGER NOT NULL DEFAULT 0;

UPDATE _smithers_run_specs SET
    created_at_ms = (SELECT r.created_at_ms FROM _smithers_runs r WHERE r.run_id = _smithers_run_specs.run_id),
    listed_as = (
        SELECT CASE WHEN base = '' THEN name WHEN base LIKE '%.py' THEN substr(base, 1, length(base) - 3) ELSE base END
        FROM (
            SELECT workflow_name AS name,
                   replace(coalesce(workflow_path, ''),
                           rtrim(coalesce(workflow_path, ''), replace(coalesce(workflow_path, ''), '/', '')), '') AS base
            FROM _smithers_runs r WHERE r.run_id = _smithers_run_specs.run_id
        ) AS named
    );

CREATE INDEX _smithers_run_specs_by_age ON _smithers_run_specs (created_at_ms, run_id) WHERE is_system = 0;
CREATE INDEX _smithers_run_specs_by_workflow ON _smithers_run_specs (listed_as, created_at_ms, run_id);
CREATE INDEX _smithers_runs_by_workflow ON _smithers_runs (workflow_name, created_at_ms, run_id);

CREATE TABLE _smithers_cron (
    cron_id TEXT PRIMARY KEY,
    pattern TEXT NOT NULL,
    workflow_path TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    last_run_at_ms INTEGER,
    next_run_at_ms INTEGER,
    error_json TEXT,
    time_zone TEXT,
    missed TEXT NOT NULL DEFAULT 'skip',
    owner_key TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_cron_due ON _smithers_cron (workflow_path, next_run_at_ms) WHERE enabled = 1;

-- One row for each moment that a schedule has fired at, or should have: whoever inserts it fires.
CREATE TABLE _smithers_cron_fires (
    cron_id TEXT NOT NULL REFERENCES _smithers_cron (cron_id) ON DELETE CASCADE,
    fire_at_ms INTEGER NOT NULL,
    claimed_at_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    run_id TEXT,
    error_json TEXT,
    PRIMARY KEY (cron_id, fire_at_ms)
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_cron_fires_open ON _smithers_cron_fires (claimed_at_ms) WHERE outcome = 'claimed';

CREATE TABLE _smithers_docs (
    path TEXT PRIMARY KEY,
    kind TEXT NOT NULL DEFAULT 'ticket',
    content TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    status TEXT,
    updated_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_docs_live ON _smithers_docs (updated_at_ms DESC, path) WHERE deleted_at_ms IS NULL;
CREATE INDEX _smithers_docs_live_by_kind ON _smithers_docs (kind, updated_at_ms DESC, path) WHERE deleted_at_ms IS NULL;
CREATE INDEX _smithers_docs_all ON _smithers_docs (updated_at_ms DESC, path);

CREATE TABLE _smithers_memory_facts (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value_json TEXT NOT NULL,
    schema_sig TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    ttl_ms INTEGER,
    run_id TEXT,
    node_id TEXT,
    iteration INTEGER,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE _smithers_scorers (
    id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    scorer_id TEXT NOT NULL,
    scorer_name TEXT NOT NULL,
    source TEXT NOT NULL,
    score REAL NOT NULL,
    reason TEXT,
    meta_json TEXT,
    input_json TEXT,
    output_json TEXT,
    ground_truth_json TEXT,
    context_json TEXT,
    latency_ms REAL,
    scored_at_ms INTEGER NOT NULL,
    duration_ms REAL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX _smithers_scorers_once ON _smithers_scorers (run_id, node_id, iteration, attempt, scorer_id, source);
CREATE INDEX _smithers_scorers_by_age ON _smithers_scorers (run_id, scored_at_ms, node_id, iteration, attempt, scorer_id, id);
