-- The oldest of what was handed on is forgotten first.
CREATE INDEX _smithers_webhook_deliveries_done ON _smithers_webhook_deliveries (delivered_at_ms)
    WHERE delivered_at_ms IS NOT NULL;

-- What was asked of a run beside its launch: that a person takes it over, and who has resumed it last.
ALTER TABLE _smithers_run_specs ADD COLUMN hijack_requested_at_ms INTEGER;
ALTER TABLE _smithers_run_specs ADD COLUMN hijack_target TEXT;
ALTER TABLE _smithers_run_specs ADD COLUMN resumed_by_json TEXT;

-- Whoever follows all runs asks for those that had ended, were resumed elsewhere, and have ended again since the last look.
CREATE INDEX _smithers_runs_ended_again ON _smithers_runs (finished_at_ms) WHERE finished_at_ms IS NOT NULL AND epoch > 1;
