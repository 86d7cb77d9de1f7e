-- Schema 13: who is at work on what, and what ended without hope.

CREATE TABLE leases (
    subject   VARCHAR PRIMARY KEY,   -- the id of a run, sweep or study
    token     VARCHAR NOT NULL,      -- of the one process that may write of it
    host      VARCHAR NOT NULL,      -- its name, for people
    machine   VARCHAR NOT NULL,      -- host, start of its system and space of process ids: where pid means something
    pid       BIGINT NOT NULL,
    started   VARCHAR,               -- when that process began, as its system counts; NULL where it does not say
    since     TIMESTAMP NOT NULL,    -- UTC
    heartbeat TIMESTAMP NOT NULL     -- UTC; not renewed for long: the process may be gone
);

ALTER TABLE runs ADD COLUMN failure VARCHAR;      -- why it ended where going on cannot help; NULL otherwise
ALTER TABLE sweeps ADD COLUMN failure VARCHAR;
ALTER TABLE studies ADD COLUMN failure VARCHAR;
