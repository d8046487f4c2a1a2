-- Version 3: what applications report, and what they are told.

-- What the instances of a version of an application need. `needs` is NULL where none did say. `deployed_at`: somebody stated that its rollout was complete.
CREATE TABLE {schema}.app_version (
    project text NOT NULL,
    application text NOT NULL,
    version text NOT NULL,
    needs jsonb,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    deployed_at timestamptz,
    deployed_by text,
    PRIMARY KEY (project, application, version)
);

-- `shapes`: what an instance says of itself. `seen`: which states it has taken note of ({"id": version}).
ALTER TABLE {schema}.app_instance
    ADD COLUMN project text NOT NULL DEFAULT 'default',
    ADD COLUMN host text NOT NULL DEFAULT '',
    ADD COLUMN pid integer NOT NULL DEFAULT 0,
    ADD COLUMN role text NOT NULL DEFAULT '',
    ADD COLUMN seen jsonb NOT NULL DEFAULT '{}';
ALTER TABLE {schema}.app_instance SET (fillfactor = 50);

-- `version` counts the changes that applications must take note of. `shapes` tells by which names a version of an
-- application uses the old shape, or the new one.
ALTER TABLE {schema}.migration
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN shapes jsonb;
ALTER TABLE {schema}.read_switch
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN allowed text[] NOT NULL DEFAULT '{}',
    ADD COLUMN changed_by text NOT NULL DEFAULT session_user;

CREATE FUNCTION {schema}.count_version() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $zdmigrate$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$zdmigrate$;
CREATE TRIGGER count_version BEFORE UPDATE ON {schema}.migration FOR EACH ROW
    WHEN ((OLD.phase, OLD.running) IS DISTINCT FROM (NEW.phase, NEW.running))
    EXECUTE FUNCTION {schema}.count_version();
CREATE TRIGGER count_version BEFORE UPDATE ON {schema}.read_switch FOR EACH ROW
    WHEN ((OLD.percent, OLD.allowed) IS DISTINCT FROM (NEW.percent, NEW.allowed))
    EXECUTE FUNCTION {schema}.count_version();

-- Applications that listen hear of a change at once; the others with their next heartbeat.
CREATE FUNCTION {schema}.tell_applications() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $zdmigrate$
BEGIN
    PERFORM pg_notify({channel}, '');
    RETURN NULL;
END
$zdmigrate$;
CREATE TRIGGER tell_applications AFTER UPDATE ON {schema}.migration FOR EACH ROW
    WHEN (OLD.version <> NEW.version) EXECUTE FUNCTION {schema}.tell_applications();
CREATE TRIGGER tell_applications AFTER INSERT OR UPDATE ON {schema}.read_switch FOR EACH ROW
    EXECUTE FUNCTION {schema}.tell_applications();

-- What an application is told: migrations that are not finished, or were not long ago, those that it has asked for, and
-- all switches.
CREATE FUNCTION {schema}.app_snapshot(of_project text, asked text[]) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $zdmigrate$
    SELECT jsonb_build_object(
        'migrations', coalesce((
            SELECT jsonb_object_agg(m.id, jsonb_build_array(
                m.version, m.phase, m.running, m.shapes, CASE WHEN l.expires_at > clock_timestamp() THEN l.holder END
            ))
            FROM {schema}.migration AS m LEFT JOIN {schema}.lease AS l ON l.migration = m.key
            WHERE m.project = of_project AND (
                m.phase <> 'contract' OR m.running IS NOT NULL OR m.id = ANY (asked)
                OR m.phase_since > clock_timestamp() - interval '30 days'
            )
        ), '{}'),
        'switches', coalesce((
            SELECT jsonb_object_agg(s.name, jsonb_build_array(s.version, s.percent, s.allowed)) FROM {schema}.read_switch AS s
        ), '{}')
    )
$zdmigrate$;

-- The first heartbeat of an instance, and the one after it was forgotten (a restored database, a long pause).
CREATE FUNCTION {schema}.app_register(
    of_instance text, of_project text, of_application text, of_version text, of_host text, of_pid integer, age interval,
    lease interval, of_needs jsonb, of_shapes jsonb, of_seen jsonb, asked text[]
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $zdmigrate$
BEGIN
    INSERT INTO {schema}.app_version AS v (project, application, version, needs)
    VALUES (of_project, of_application, of_version, of_needs)
    ON CONFLICT (project, application, version) DO UPDATE
    -- A process may know less than another one of its version: what any of them needs is needed.
    SET last_seen = clock_timestamp(), needs = CASE
        WHEN v.needs IS NULL THEN excluded.needs
        WHEN excluded.needs IS NULL OR v.needs @> excluded.needs THEN v.needs
        ELSE v.needs || excluded.needs
    END;
    INSERT INTO {schema}.app_instance
        (instance, project, application, version, host, pid, role, started_at, expires_at, shapes, seen)
    VALUES (
        of_instance, of_project, of_application, of_version, of_host, of_pid, session_user,
        clock_timestamp() - age, clock_timestamp() + lease, of_shapes, of_seen
    )
    ON CONFLICT (instance) DO UPDATE
    SET seen_at = clock_timestamp(), expires_at = excluded.expires_at, retired_at = NULL, shapes = excluded.shapes,
        seen = excluded.seen;
    DELETE FROM {schema}.app_instance
    WHERE coalesce(retired_at, expires_at) < clock_timestamp() - interval '7 days';
    DELETE FROM {schema}.shadow_read WHERE began_at < clock_timestamp() - interval '7 days';
    RETURN {schema}.app_snapshot(of_project, asked);
END
$zdmigrate$;

-- Every other heartbeat. NULL: the instance is not known.
CREATE FUNCTION {schema}.app_beat(of_instance text, lease interval, of_seen jsonb, asked text[]) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $zdmigrate$
    UPDATE {schema}.app_instance
    SET seen_at = clock_timestamp(), expires_at = clock_timestamp() + lease, seen = of_seen
    WHERE instance = of_instance AND retired_at IS NULL
    RETURNING {schema}.app_snapshot(project, asked)
$zdmigrate$;

-- The goodbye.
CREATE FUNCTION {schema}.app_retire(of_instance text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $zdmigrate$
    UPDATE {schema}.app_instance SET retired_at = clock_timestamp(), seen_at = clock_timestamp()
    WHERE instance = of_instance AND retired_at IS NULL
$zdmigrate$;

REVOKE EXECUTE ON FUNCTION
    {schema}.app_snapshot(text, text[]),
    {schema}.app_register(text, text, text, text, text, integer, interval, interval, jsonb, jsonb, jsonb, text[]),
    {schema}.app_beat(text, interval, jsonb, text[]),
    {schema}.app_retire(text)
FROM PUBLIC;

-- What processes found when they compared the old read with the new one. A row for each process, state of a migration and
-- hour: its process alone writes it, with totals that only grow, so that a report may be lost, or come twice. `phase_since` is
-- that of the migration as the compares' own snapshots had it; NULL: nothing was read. `dropped` were not compared.
CREATE TABLE {schema}.shadow_read (
    reporter text NOT NULL,
    number integer NOT NULL,
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    phase_since timestamptz,
    began_at timestamptz NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    compares integer NOT NULL,
    mismatches integer NOT NULL,
    failures integer NOT NULL,
    dropped integer NOT NULL,
    samples jsonb NOT NULL,
    failure text,
    PRIMARY KEY (reporter, number)
) WITH (fillfactor = 50);
CREATE INDEX shadow_read_began ON {schema}.shadow_read (began_at);

CREATE FUNCTION {schema}.app_shadow(of_project text, of_reporter text, counts jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $zdmigrate$
    INSERT INTO {schema}.shadow_read AS s
        (reporter, number, migration, phase_since, began_at, compares, mismatches, failures, dropped, samples, failure)
    SELECT of_reporter, c.number, m.key, c.phase_since, clock_timestamp() - make_interval(secs => c.age), c.compares,
           c.mismatches, c.failures, c.dropped, c.samples, c.failure
    FROM jsonb_to_recordset(counts) AS c (
        number integer, migration text, phase_since timestamptz, age double precision, compares integer, mismatches integer,
        failures integer, dropped integer, samples jsonb, failure text
    )
    JOIN {schema}.migration AS m ON m.project = of_project AND m.id = c.migration
    ON CONFLICT (reporter, number) DO UPDATE
    -- One that was held up may come after the next one.
    SET reported_at = clock_timestamp(), compares = greatest(s.compares, excluded.compares),
        mismatches = greatest(s.mismatches, excluded.mismatches), failures = greatest(s.failures, excluded.failures),
        dropped = greatest(s.dropped, excluded.dropped), samples = excluded.samples, failure = excluded.failure
$zdmigrate$;

REVOKE EXECUTE ON FUNCTION {schema}.app_shadow(text, text, jsonb) FROM PUBLIC;

-- Writes that came through one shape alone, as triggers on the application's tables have noted them; `diverged`: nothing
-- has made the other shape follow (sync = "app"). Only ever inserted into, and no row is read, by who notes.
ALTER TABLE {schema}.sync_violation RENAME TO write_note;
ALTER TABLE {schema}.write_note
    ADD COLUMN role text NOT NULL DEFAULT '',
    ADD COLUMN xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    ADD COLUMN side text NOT NULL DEFAULT 'both' CHECK (side IN ('old', 'new', 'both')),
    ADD COLUMN diverged boolean NOT NULL DEFAULT true,
    ADD COLUMN statement text;
ALTER TABLE {schema}.write_note ALTER COLUMN role SET DEFAULT session_user;
ALTER TABLE {schema}.write_note SET (vacuum_truncate = off);  -- which would lock it, and notes be lost
CREATE INDEX write_note_backend ON {schema}.write_note (backend, at);
-- Guards that an older zdmigrate has installed write here.
CREATE VIEW {schema}.sync_violation AS
SELECT number, at, migration, table_name, application, backend FROM {schema}.write_note;

-- `verified_from`: what was committed before the verification began. Later notes of divergence are news to it.
ALTER TABLE {schema}.migration ADD COLUMN verified_from pg_snapshot;

-- A statement without its values: strings, numbers and comments may tell about people. What comes after a place that cannot be
-- understood for sure is left out: a dollar quote, a comment in a comment, a string that goes on in the next line, and a backslash
-- before a quote, where standard_conforming_strings decides. (That cannot be asked for: the trigger's function may have set it.)
CREATE FUNCTION {schema}.without_values(query text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $zdmigrate$
DECLARE
    shown text := left(query, 2000);
    named text := (regexp_match(query, '^\s*execute\s+("(?:[^"]|"")+"|[[:alnum:]_$]+)', 'i'))[1];
BEGIN
    IF named IS NOT NULL THEN
        named := CASE WHEN named LIKE '"%' THEN replace(trim(BOTH '"' FROM named), '""', '"') ELSE lower(named) END;
        shown := coalesce((SELECT left(p.statement, 2000) FROM pg_prepared_statements AS p WHERE p.name = named), shown);
    END IF;
    IF shown ~ '/\*([^*]|\*+[^*/])*/\*' THEN
        shown := left(shown, strpos(shown, '/*') - 1);
    END IF;
    RETURN (
        WITH pieces AS (
            SELECT place, piece, piece ~ '^[eE]?''' AS is_string, piece ~ '^(--|/\*|\s)' AS is_gap
            FROM regexp_matches(shown, '('
                '"(?:[^"]|"")*(?:"|$)'
                '|[eE]''(?:[^''\\]|\\.|'''')*(?:''|\\?$)'
                '|''(?:[^'']|'''')*(?:''|$)'
                '|\$(?:[^\s$0-9''"(),;][^\s$''"(),;]*)?\$.*'
                '|--[^\n]*'
                '|/\*(?:[^*]|\*+[^*/])*(?:\*+/|\**$)'
                '|\$[0-9]+'
                '|[0-9][0-9[:alpha:]_.]*'
                '|[[:alpha:]_][[:alnum:]_$]*'
                '|\s+'
                '|.'
                ')', 'g') WITH ORDINALITY AS found (texts, place), unnest(texts) AS piece
        ), doubts AS (
            SELECT place, is_string AND (
                piece ~ '^''.*\\''' OR lag(is_string) OVER (PARTITION BY is_gap ORDER BY place)
            ) AS is_doubtful
            FROM pieces
        )
        SELECT left(btrim(string_agg(CASE
            WHEN is_string OR piece ~ '^[0-9]' THEN '?'
            WHEN is_gap THEN ' '
            WHEN piece ~ '^\$([^0-9]|$)' THEN '?'
            ELSE piece
        END, '' ORDER BY place)), 500)
        FROM pieces WHERE place <= coalesce((SELECT min(d.place) FROM doubts AS d WHERE d.is_doubtful), place)
    );
END
$zdmigrate$;

-- Called by the triggers' functions, in the application's transactions and with its rights: where it fails, they go on
-- without a note. Unless it is told to note `every` write, it waits for nobody, and notes one a minute: poolers make
-- sessions forget what they have noted. (A serializable transaction must not read here, or it would conflict with others.)
CREATE FUNCTION {schema}.note_write(
    of_migration text, of_table text, of_side text, of_diverged boolean, every boolean
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $zdmigrate$
BEGIN
    IF NOT every THEN
        LOCK TABLE {schema}.migration IN ACCESS SHARE MODE NOWAIT;
        LOCK TABLE {schema}.write_note IN ROW EXCLUSIVE MODE NOWAIT;
    END IF;
    IF NOT every AND current_setting('transaction_isolation') <> 'serializable' AND EXISTS (
        SELECT FROM {schema}.write_note AS n
        WHERE n.backend = pg_backend_pid() AND n.at > clock_timestamp() - interval '1 min' AND n.migration = of_migration
          AND n.side = of_side AND n.application = current_setting('application_name')
    ) THEN
        RETURN;
    END IF;
    INSERT INTO {schema}.write_note (migration, table_name, application, backend, side, diverged, statement)
    SELECT of_migration, of_table, current_setting('application_name'), pg_backend_pid(), of_side, of_diverged,
           {schema}.without_values(current_query())
    -- Anybody may call this: only for what is going on.
    WHERE EXISTS (SELECT FROM {schema}.migration AS m WHERE m.id = of_migration AND m.phase <> 'contract');
END
$zdmigrate$;

REVOKE EXECUTE ON FUNCTION {schema}.without_values(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {schema}.note_write(text, text, text, boolean, boolean) TO PUBLIC;
GRANT USAGE ON SCHEMA {schema} TO PUBLIC;

-- Notes of divergence that could not be made, counted where nothing has to be waited for and nothing is rolled back.
-- `verified_missed`: how many there were when the verification began.
CREATE SEQUENCE {schema}.missed_notes;
ALTER TABLE {schema}.migration ADD COLUMN verified_missed bigint;

-- The lock tells a verification that begins now that the row is not there to be seen yet; it ends with the transaction.
CREATE FUNCTION {schema}.note_missed() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $zdmigrate$
BEGIN
    PERFORM pg_try_advisory_xact_lock_shared(1953066612, 1702065522);
    PERFORM nextval('{schema}.missed_notes');
END
$zdmigrate$;

-- How many were missed by transactions that have ended. In this order: who counts later is news, who has counted and has ended is seen.
CREATE FUNCTION {schema}.missed_until_now() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $zdmigrate$
DECLARE
    missed bigint;
    writing bigint;
BEGIN
    SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END INTO missed FROM {schema}.missed_notes AS s;
    SELECT count(*) INTO writing FROM pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.classid = 1953066612 AND l.objid = 1702065522 AND l.objsubid = 2
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
    RETURN missed - writing;
END
$zdmigrate$;

REVOKE EXECUTE ON FUNCTION {schema}.missed_until_now() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {schema}.note_missed() TO PUBLIC;

-- Who looked when at the statements that the server counts, for the shape that is about to go.
CREATE TABLE {schema}.statement_look (
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    shape text NOT NULL,
    since timestamptz NOT NULL,
    looked_at timestamptz NOT NULL,
    forgotten bigint,
    PRIMARY KEY (migration, shape)
);

-- Statements that name it: how often they had run at the last look, how often since the first one, and which look found that they had.
CREATE TABLE {schema}.statement_mark (
    migration bigint NOT NULL REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    shape text NOT NULL,
    userid oid NOT NULL,
    queryid bigint NOT NULL,
    calls bigint NOT NULL,
    exec_time double precision NOT NULL,
    ran bigint NOT NULL DEFAULT 0,
    ran_at timestamptz,
    PRIMARY KEY (migration, shape, userid, queryid)
);

-- Rights on the old shape that are withheld for a while: `rights` is what to give back. One row a migration, of the last time.
CREATE TABLE {schema}.withholding (
    migration bigint PRIMARY KEY REFERENCES {schema}.migration (key) ON DELETE CASCADE,
    epoch bigint NOT NULL,
    host text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    until timestamptz NOT NULL,
    rights jsonb NOT NULL,
    roles text[] NOT NULL,
    spared text[] NOT NULL,
    given_back_at timestamptz,
    outcome text,
    detail text,
    changed text[] NOT NULL DEFAULT '{}'
);

-- Give everything back, at most once, whoever asks; false: it was already. Waits for no lock on the table. Where a role has lost
-- what it was to have meanwhile, somebody has revoked it, and knows why: it is left as it is.
CREATE FUNCTION {schema}.give_back(of_migration bigint, of_outcome text, of_detail text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $zdmigrate$
DECLARE
    held {schema}.withholding;
    relation jsonb;
    one jsonb;
    place regclass;
    who text;
    what text;
    shown text;
    altered text[] := '{}';
    behind text[] := '{}';
    told text;
BEGIN
    SELECT * INTO held FROM {schema}.withholding WHERE migration = of_migration AND given_back_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR relation IN SELECT * FROM jsonb_array_elements(held.rights) LOOP
        SELECT c.oid INTO place FROM pg_class AS c WHERE c.oid = (relation ->> 'relation')::oid;
        CONTINUE WHEN NOT FOUND;
        FOR one IN SELECT * FROM jsonb_array_elements(relation -> 'table') LOOP
            who := {schema}.grantee((one ->> 'role')::oid);
            CONTINUE WHEN who IS NULL;
            shown := format('%s on %s of %s', one ->> 'privilege', place, who);
            IF NOT {schema}.has_beside(place, one) THEN
                altered := altered || shown;
                CONTINUE;
            END IF;
            EXECUTE format('GRANT %s ON TABLE %s TO %s%s', one ->> 'privilege', place, who, one ->> 'option');
            behind := behind || {schema}.take_lent(place, who, one ->> 'privilege', ARRAY(
                SELECT quote_ident(a.attname) FROM pg_attribute AS a
                WHERE a.attrelid = place AND NOT a.attisdropped AND one -> 'beside' @> to_jsonb(a.attnum)
            ));
        END LOOP;
        FOR one IN SELECT * FROM jsonb_array_elements(relation -> 'columns') LOOP
            who := {schema}.grantee((one ->> 'role')::oid);
            SELECT format('%s (%I)', one ->> 'privilege', a.attname) INTO what FROM pg_attribute AS a
            WHERE a.attrelid = place AND a.attnum = (one ->> 'column')::smallint AND NOT a.attisdropped;
            CONTINUE WHEN who IS NULL OR what IS NULL;
            shown := format('%s on %s of %s', one ->> 'privilege', place, who);
            IF shown <> ALL (altered) AND NOT {schema}.has_beside(place, one) THEN
                altered := altered || shown;
            END IF;
            CONTINUE WHEN shown = ANY (altered);
            EXECUTE format('GRANT %s ON TABLE %s TO %s%s', what, place, who, one ->> 'option');
        END LOOP;
    END LOOP;
    told := concat_ws('; ', of_detail,
        'was changed meanwhile: ' || nullif(array_to_string(altered, ', '), ''),
        'stays behind, for others depend on it: ' || nullif(array_to_string(behind, ', '), ''));
    UPDATE {schema}.withholding SET given_back_at = clock_timestamp(), outcome = of_outcome, detail = told, changed = altered
    WHERE migration = of_migration;
    INSERT INTO {schema}.event (project, migration, host, action, phase, outcome, duration_ms, detail)
    SELECT m.project, m.id, held.host, 'give_back', m.phase, of_outcome,
           extract(epoch FROM clock_timestamp() - held.began_at) * 1000, told
    FROM {schema}.migration AS m WHERE m.key = of_migration;
    RETURN true;
END
$zdmigrate$;

CREATE FUNCTION {schema}.grantee(of_role oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $zdmigrate$
    SELECT CASE WHEN of_role = 0 THEN 'PUBLIC' ELSE (SELECT quote_ident(r.rolname) FROM pg_roles AS r WHERE r.oid = of_role) END
$zdmigrate$;

-- Whether the role has the right on all columns that it was to have it on while the others were withheld.
CREATE FUNCTION {schema}.has_beside(place regclass, one jsonb) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $zdmigrate$
    SELECT NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = place AND NOT a.attisdropped AND one -> 'beside' @> to_jsonb(a.attnum) AND NOT EXISTS (
            SELECT FROM aclexplode(a.attacl) AS x
            WHERE x.grantee = (one ->> 'role')::oid AND x.privilege_type = one ->> 'privilege'
        )
    )
$zdmigrate$;

-- Revoke rights on columns that have become one on the table; returns what cannot be, as it was passed on to others.
CREATE FUNCTION {schema}.take_lent(place regclass, who text, privilege text, columns text[]) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $zdmigrate$
DECLARE
    one text;
    behind text[] := '{}';
BEGIN
    IF columns <> '{}' THEN
        EXECUTE format('REVOKE %s (%s) ON TABLE %s FROM %s', privilege, array_to_string(columns, ', '), place, who);
    END IF;
    RETURN behind;
EXCEPTION WHEN dependent_objects_still_exist THEN
    IF array_length(columns, 1) = 1 THEN
        RETURN ARRAY[format('%s (%s) on %s of %s', privilege, columns[1], place, who)];
    END IF;
    FOREACH one IN ARRAY columns LOOP
        behind := behind || {schema}.take_lent(place, who, privilege, ARRAY[one]);
    END LOOP;
    RETURN behind;
END
$zdmigrate$;

-- Runs in a session of its own for as long as rights are withheld. It needs no client: it gives them back where the session that
-- withheld them is gone, has not asked for anything for as long as `patience`, or is late.
CREATE PROCEDURE {schema}.keep_watch(of_migration bigint, of_epoch bigint, of_backend integer, patience interval)
LANGUAGE plpgsql AS $zdmigrate$
DECLARE
    session record;
    held record;
    there boolean;
BEGIN
    LOOP
        -- In this order: what a session that is gone has committed is seen afterwards.
        SELECT a.state_change < pg_catalog.clock_timestamp() - patience AS silent INTO session
        FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = of_backend AND a.application_name LIKE 'zdmigrate %';
        there := FOUND;
        SELECT w.given_back_at, pg_catalog.clock_timestamp() > w.until + interval '1 second' AS late,
               pg_catalog.clock_timestamp() > w.until + interval '1 hour' AS hopeless INTO held
        FROM {schema}.withholding AS w WHERE w.migration = of_migration AND w.epoch = of_epoch;
        EXIT WHEN held.given_back_at IS NOT NULL OR NOT there AND held.late IS NULL OR held.hopeless;
        IF held.late OR held.late IS NOT NULL AND (NOT there OR session.silent) THEN
            BEGIN
                PERFORM {schema}.give_back(of_migration, 'lost', 'the command that withheld them did not answer');
            EXCEPTION WHEN OTHERS THEN
                NULL;  -- somebody holds a lock: once more in a moment
            END;
        END IF;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.2);
        COMMIT;
    END LOOP;
END
$zdmigrate$;

REVOKE EXECUTE ON ROUTINE
    {schema}.give_back(bigint, text, text), {schema}.grantee(oid), {schema}.has_beside(regclass, jsonb),
    {schema}.take_lent(regclass, text, text, text[]), {schema}.keep_watch(bigint, bigint, integer, interval)
FROM PUBLIC;
