-- What has another attempt wait for a person: calls with an effect that may not be repeated, and that nobody at the other end
-- could tell from the first. `contained` says of a call that it could change nothing but the folder that its task works in.
ALTER TABLE _smithers_tool_calls ADD COLUMN contained INTEGER NOT NULL DEFAULT 0;
ALTER TABLE _smithers_tool_call_archive ADD COLUMN contained INTEGER NOT NULL DEFAULT 0;

-- Small, because few calls are such; the flags are in it so that looking for them reads no call that is not.
CREATE INDEX _smithers_tool_calls_unsafe ON _smithers_tool_calls
    (run_id, node_id, iteration, side_effect, idempotent, accepts_idempotency_key, contained)
    WHERE side_effect = 1 AND idempotent = 0 AND accepts_idempotency_key = 0 AND contained = 0;
