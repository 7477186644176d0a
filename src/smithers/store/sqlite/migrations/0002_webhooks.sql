-- Deliveries that a webhook sender was told are accepted: kept until they are handed to runs, and then so that the same
-- delivery sent again is known.

CREATE TABLE _smithers_webhook_deliveries (
    source_id TEXT NOT NULL,
    dedupe_key TEXT NOT NULL,
    signal_name TEXT NOT NULL,
    correlation_id TEXT,
    payload_json TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL,
    delivered_at_ms INTEGER,
    PRIMARY KEY (source_id, dedupe_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX _smithers_webhook_deliveries_open ON _smithers_webhook_deliveries (received_at_ms)
    WHERE delivered_at_ms IS NULL;
