-- The control schema, version 1. {schema} is replaced by the quoted name of the schema.
-- Files of this folder are applied in order and never changed after a release: expand only.

CREATE TABLE {schema}.meta (
    key text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE {schema}.migration (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project text NOT NULL,
    id text NOT NULL,
    title text NOT NULL DEFAULT '',
    checksum text NOT NULL,
    plan jsonb,
    plan_hash text,
    touches text[] NOT NULL DEFAULT '{}',
    phase text NOT NULL DEFAULT 'none',
    phase_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    running text,
    verified_at timestamptz,
    adopted boolean NOT NULL DEFAULT false,
    hold_reason text,
    hold_by text,
    hold_since timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (project, id)
);

-- UNIQUE (migration, epoch) makes a change of the epoch a key update: it waits for every transaction that holds
-- FOR KEY SHARE on the row, and a heartbeat, which leaves the key alone, does not.
CREATE TABLE {schema}.lease (
    migration bigint PRIMARY KEY REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    epoch bigint NOT NULL DEFAULT 0,
    holder text,
    acquired_at timestamptz,
    expires_at timestamptz,
    backend integer,
    backend_start timestamptz,
    UNIQUE (migration, epoch)
);

CREATE TABLE {schema}.event (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    project text NOT NULL,
    migration text NOT NULL,
    actor text NOT NULL DEFAULT session_user,
    host text NOT NULL,
    deployment text,
    artifact text,
    action text NOT NULL,
    phase text,
    step text,
    sql_hash text,
    outcome text NOT NULL,
    duration_ms double precision,
    detail text
);
CREATE INDEX event_migration ON {schema}.event (project, migration, number);

CREATE FUNCTION {schema}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.event
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();

CREATE TABLE {schema}.backfill (
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    step text NOT NULL,
    relation oid NOT NULL,
    relation_name text NOT NULL,
    filenode oid NOT NULL,
    bound bigint NOT NULL,
    page bigint NOT NULL DEFAULT 0,
    stripe integer NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    done boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, step, relation)
);

CREATE TABLE {schema}.read_switch (
    name text PRIMARY KEY,
    percent integer NOT NULL CHECK (percent BETWEEN 0 AND 100),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What the gates know of the applications. An instance works with the old shape, the new one, or both.
CREATE TABLE {schema}.app_instance (
    instance text PRIMARY KEY,
    application text NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    retired_at timestamptz,
    shapes jsonb NOT NULL DEFAULT '{}'
);

-- sync = "app": writes that left the two shapes diverged, counted by the guard trigger.
CREATE TABLE {schema}.sync_violation (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    migration text NOT NULL,
    table_name text NOT NULL,
    application text NOT NULL,
    backend integer NOT NULL
);
