-- Schema 14: policies of users' own, by the hash of their file's text.

CREATE TABLE own_policies (
    policy                VARCHAR PRIMARY KEY,   -- mine.py:Greedy#01234567, as it stands in every key
    file                  VARCHAR NOT NULL,      -- where it was found
    class_name            VARCHAR NOT NULL,
    digest                VARCHAR NOT NULL,      -- the start of the text's SHA-256
    lossless              BOOLEAN NOT NULL,      -- what its class says of itself
    replays_exactly       BOOLEAN NOT NULL,
    reads_confidences     BOOLEAN NOT NULL,
    wants_raw_confidences BOOLEAN NOT NULL,
    needs_cost            BOOLEAN NOT NULL,
    text                  VARCHAR NOT NULL       -- to be read; nothing runs it from here
);
