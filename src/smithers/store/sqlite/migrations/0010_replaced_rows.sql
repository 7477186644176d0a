-- What nodes had come to before they were done again: their output rows and what was asked of people for them, as they
-- were from frame_no on and before until_frame. A run that never does anything again has no rows here.

CREATE TABLE _smithers_replaced_rows (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    until_frame INTEGER NOT NULL,
    kind TEXT NOT NULL,
    frame_no INTEGER NOT NULL,
    output_seq INTEGER,
    output_table TEXT,
    row_json TEXT NOT NULL,
    replaced_by_op TEXT NOT NULL,
    replaced_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, iteration, until_frame, kind)
) STRICT, WITHOUT ROWID;
