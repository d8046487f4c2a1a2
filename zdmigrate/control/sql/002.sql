-- Version 2: backfills that several processes share, that are steered from elsewhere, and rows that cannot be filled.

-- A process that takes part. What it has claimed is free again when its time is over, or its (main) session is gone.
-- `document` is what it says of itself: pace, throttles, progress.
CREATE TABLE {schema}.backfill_process (
    process bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    step text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    backend integer NOT NULL,
    backend_start timestamptz,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    document jsonb NOT NULL DEFAULT '{}'
);

-- Windows under way: pages that are claimed and not done. backfill.page is the first page that nobody has claimed, and
-- backfill.rows what finished windows have filled. Page -1 stands for what all of the relation's windows have left.
CREATE TABLE {schema}.backfill_window (
    migration bigint NOT NULL,
    step text NOT NULL,
    relation oid NOT NULL,
    page bigint NOT NULL,
    pages bigint NOT NULL,
    stripe integer NOT NULL DEFAULT 0,
    stripes integer NOT NULL,
    rows bigint NOT NULL DEFAULT 0,
    process bigint NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, step, relation, page),
    FOREIGN KEY (migration, step, relation) REFERENCES {schema}.backfill ON DELETE CASCADE
);

-- What was said from another terminal. NULL: as configured, or nobody has said anything. `seen_standbys` are those that
-- streamed when the backfill began, and `seen_timeline` is that of the primary then; nobody has said so.
CREATE TABLE {schema}.backfill_control (
    migration bigint PRIMARY KEY REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    paused boolean NOT NULL DEFAULT false,
    reason text,
    rate bigint CHECK (rate > 0),
    workers integer CHECK (workers > 0),
    target_latency interval CHECK (target_latency > interval '0'),
    max_lag bigint CHECK (max_lag > 0),
    max_lag_time interval CHECK (max_lag_time > interval '0'),
    standbys text[],
    seen_standbys text[],
    seen_timeline integer,
    paused_by text,
    paused_at timestamptz,
    changed_by text,
    changed_at timestamptz
);

-- What a step was expected to cost when it began (as `zdmigrate plan` would have said), how large the table was, and what
-- all processes together have spent on it.
CREATE TABLE {schema}.backfill_cost (
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    step text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    forecast jsonb,
    heap_bytes bigint NOT NULL,
    index_bytes bigint NOT NULL,
    wal_bytes bigint NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (migration, step)
);

-- Rows whose expression fails. `key` is the primary key as text, or the ctid; never more of the row than configured.
CREATE TABLE {schema}.quarantine (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    step text NOT NULL,
    relation oid NOT NULL,
    relation_name text NOT NULL,
    key jsonb NOT NULL,
    sqlstate text NOT NULL,
    message text NOT NULL,
    data jsonb,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 1,
    resolved_at timestamptz,
    resolved_by text,
    resolution text
);
CREATE UNIQUE INDEX quarantine_open ON {schema}.quarantine (migration, step, relation, key) WHERE resolved_at IS NULL;

-- Written for standbys, so that an idle primary is not taken for lag.
CREATE TABLE {schema}.heartbeat (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    at timestamptz NOT NULL
);
