-- Schema 14: policies of users' own, by the hash of their file's text; and policies against one of them, paired.

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
    searched              VARCHAR[] NOT NULL,    -- parameters that a search tries
    text                  VARCHAR NOT NULL       -- to be read; nothing runs it from here
);

CREATE TABLE contrasts (
    sweep_id  VARCHAR NOT NULL,
    number    INTEGER NOT NULL,   -- loads in the order they were asked for; at each, the sweep's points in theirs
    load      VARCHAR NOT NULL,
    candidate JSON NOT NULL,      -- what was compared: drafter, kind, gamma, drafting, confidences, policy, request cap
    against   VARCHAR NOT NULL,   -- the policy that it was compared with, on the same recording
    figure    VARCHAR NOT NULL,   -- throughput, or tps at loads whose throughput is what arrives
    draws     INTEGER NOT NULL,   -- of prompts, seeds and the profile's errors, the same for both
    gain      JSON                -- what it gives more, as a share; NULL where the other gives nothing
);
