CREATE TABLE users (
    id bigserial PRIMARY KEY,
    name text NOT NULL
);
INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 500) n;
