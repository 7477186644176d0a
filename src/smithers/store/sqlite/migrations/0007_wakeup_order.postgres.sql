ALTER TABLE _smithers_wakeups ALTER COLUMN tx SET DEFAULT pg_current_xact_id()::text::bigint;
