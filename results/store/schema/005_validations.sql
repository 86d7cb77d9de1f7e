-- Schema 5: validations: a live engine under load beside its simulation from other prompts' traces, one row a point.

CREATE TABLE validations (
    validation_id VARCHAR NOT NULL,
    point         UINTEGER NOT NULL,    -- from 0
    run_id        VARCHAR NOT NULL,
    created_at    TIMESTAMP NOT NULL,   -- UTC
    command       VARCHAR NOT NULL,
    engine        VARCHAR NOT NULL,     -- 'specyard': the decode loop as a server
    profile_hash  VARCHAR NOT NULL,     -- what was simulated with
    believed_hash VARCHAR NOT NULL,     -- what schedulers thought a step takes, live and simulated
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,
    policy        VARCHAR NOT NULL,
    confidences   VARCHAR NOT NULL,     -- as in simulations
    users         UINTEGER NOT NULL,    -- of a closed loop
    live_prompts  VARCHAR[] NOT NULL,   -- asked live
    trace_prompts VARCHAR[] NOT NULL,   -- simulated: others
    seconds       DOUBLE NOT NULL,      -- of the live engine's clock
    steps         UINTEGER NOT NULL,
    requests      UINTEGER NOT NULL,    -- answered
    measured      JSON NOT NULL,        -- throughput (tokens/s), tps (tokens/s of a user), tau, budget
    simulated     JSON NOT NULL,        -- means over replicates of the same protocol
    low           JSON NOT NULL,        -- 95 % of replicates, prompts redrawn in each, lie between these
    high          JSON NOT NULL,
    same_prompts  JSON NOT NULL,        -- simulated from the live prompts' own traces: what is left when prompts are no excuse
    step_errors   JSON NOT NULL,        -- predicted / measured seconds − 1 of the live steps themselves, by part
    git_revision  VARCHAR,
    packages      JSON NOT NULL,
    PRIMARY KEY (validation_id, point)
);
