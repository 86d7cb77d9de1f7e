-- Schema 6: tolerances: how wrong one thing may be at one load before another configuration would have won, one row a load
-- and thing. Apart from `sensitivities`, which ask the same of what a study of the tuner found.

CREATE TABLE tolerances (
    tolerance_id VARCHAR NOT NULL,    -- of one `harness sensitivity`
    number       UINTEGER NOT NULL,   -- from 0
    run_id       VARCHAR NOT NULL,
    created_at   TIMESTAMP NOT NULL,  -- UTC
    command      VARCHAR NOT NULL,
    profile_hash VARCHAR NOT NULL,    -- what was simulated with, and what policies believe whatever is off
    objective    VARCHAR NOT NULL,    -- 'throughput' or 'tps': what the winner has most of
    seconds      DOUBLE NOT NULL,     -- of simulated time, each point
    seed         BIGINT NOT NULL,
    clear        DOUBLE NOT NULL,     -- another configuration wins with so much more of the objective: 0.01 is 1 %
    load         VARCHAR NOT NULL,    -- as in trials: 'users:64'
    what         VARCHAR NOT NULL,    -- 'seconds of verification', 'acceptance', ...
    winner       VARCHAR NOT NULL,    -- where nothing is off: 'dspark γ=7 prefix_scheduler'
    margin       DOUBLE NOT NULL,     -- by how much it then beats the next; 0.01 is 1 %
    down         DOUBLE,              -- break-even: -0.12 is 12 % less than assumed; NULL: it holds as far as was looked
    up           DOUBLE,
    instead      VARCHAR,             -- who wins first beyond
    looks        JSON NOT NULL,       -- a list of {off, best, loss}: loss of keeping the winner, as a share of the objective
    git_revision VARCHAR,
    packages     JSON NOT NULL,
    PRIMARY KEY (tolerance_id, number)
);
