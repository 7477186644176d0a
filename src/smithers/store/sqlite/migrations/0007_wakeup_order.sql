-- SQLite's jobs follow one another, so the ids of wake-ups are in the order in which they can be seen. PostgreSQL's are not:
-- there each has its transaction with it.
ALTER TABLE _smithers_wakeups ADD COLUMN tx INTEGER;
CREATE INDEX _smithers_wakeups_by_tx ON _smithers_wakeups (tx) WHERE tx IS NOT NULL;
