-- Runs that are stored and wait to be started by whoever has room: one row each, gone once the run has begun. A lane is a
-- queue and a workflow; lanes take turns.
CREATE TABLE _smithers_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    lane TEXT NOT NULL,
    queue TEXT NOT NULL,
    workflow TEXT NOT NULL,
    priority INTEGER NOT NULL,
    taken_until_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX _smithers_queue_by_run ON _smithers_queue (run_id);
CREATE INDEX _smithers_queue_order ON _smithers_queue (lane, priority DESC, id);

-- What holds starts back, for a queue by its name or for a workflow by workflow:NAME. A rate is so many starts in a period;
-- arrival_ms is the moment up to which starts have been given out.
CREATE TABLE _smithers_queue_limits (
    name TEXT PRIMARY KEY,
    concurrency INTEGER,
    rate_count INTEGER,
    rate_period_ms INTEGER,
    arrival_ms REAL NOT NULL DEFAULT 0,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE _smithers_run_specs ADD COLUMN queue TEXT NOT NULL DEFAULT 'default';
