CREATE SEQUENCE event_numbers;
CREATE TABLE events (
    id bigint DEFAULT nextval('event_numbers'),
    kind text NOT NULL
);
ALTER SEQUENCE event_numbers OWNED BY events.id;
INSERT INTO events (kind) SELECT 'kind ' || n % 7 FROM generate_series(1, 500) n;
