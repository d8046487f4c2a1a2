CREATE TABLE memberships (
    member bigint NOT NULL,
    team text
);
CREATE UNIQUE INDEX memberships_member ON memberships (member);
INSERT INTO memberships (member, team) SELECT n, 'team ' || n % 7 FROM generate_series(1, 500) n;
