-- Schema 4: studies: searches for the configuration to run, one search a load.

CREATE TABLE studies (
    study_id     VARCHAR PRIMARY KEY,
    run_id       VARCHAR NOT NULL,
    created_at   TIMESTAMP NOT NULL,    -- UTC
    finished_at  TIMESTAMP,             -- UTC; NULL while running or interrupted
    command      VARCHAR NOT NULL,
    plan         JSON NOT NULL,         -- everything `--resume` needs to go on
    profile_hash VARCHAR NOT NULL,
    git_revision VARCHAR,
    packages     JSON NOT NULL
);

-- Configurations tried. Optuna's study is made from these rows, so the two cannot disagree.
CREATE TABLE trials (
    study_id      VARCHAR NOT NULL,
    load          VARCHAR NOT NULL,     -- 'users:64', 'rate:5'
    number        UINTEGER NOT NULL,    -- from 0, one search after the other
    batch         UINTEGER NOT NULL,    -- trials of a batch were proposed together, knowing the batches before
    origin        VARCHAR NOT NULL,     -- 'start', 'neighbour', 'random', or the sampler that proposed it
    state         VARCHAR NOT NULL,     -- 'complete', 'cut' (clearly worse: simulated shortly) or 'failed'
    error         VARCHAR,              -- of a failed trial
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,    -- drafted block size
    policy        VARCHAR NOT NULL,
    confidences   VARCHAR NOT NULL,     -- 'raw', 'calibrated', 'estimated'; 'none' if the policy looks at none
    request_cap   UINTEGER NOT NULL,
    params        JSON NOT NULL,        -- Optuna's parameters
    distributions JSON NOT NULL,        -- and where they were drawn from
    attributes    JSON NOT NULL,        -- what Optuna's sampler noted
    rungs         JSON NOT NULL,        -- [{"seconds":…, "values":…, "half_widths":…, "violations":…}, …] as simulated
    objectives    DOUBLE[],             -- of the last rung; as what was asked for
    violations    JSON,                 -- by constraint; above 0: broken
    feasible      BOOLEAN,
    figures       JSON,                 -- throughput, tps, goodput, tau, budget, p95_ttft, …
    wall_s        DOUBLE NOT NULL,      -- of all its simulations
    PRIMARY KEY (study_id, load, number)
);

-- Configurations on the prompts kept for confirmation, all on the same draws of prompts and seeds.
CREATE TABLE confirmations (
    study_id    VARCHAR NOT NULL,
    load        VARCHAR NOT NULL,
    place       UINTEGER NOT NULL,      -- order in the table shown, from 0: the winner
    role        VARCHAR NOT NULL,       -- 'winner', 'front', 'refuted', 'next best', 'default', 'k by batch' or 'bound'
    error       VARCHAR,
    drafter     VARCHAR NOT NULL,
    gamma       UTINYINT NOT NULL,
    policy      VARCHAR NOT NULL,
    confidences VARCHAR NOT NULL,
    request_cap UINTEGER NOT NULL,
    exact       BOOLEAN NOT NULL,       -- whether replaying has the law of a live run at any temperature
    prompts     UINTEGER NOT NULL,
    draws       UINTEGER NOT NULL,      -- each a bootstrap of the prompts and a fresh seed
    figures     JSON,                   -- means over draws
    half_widths JSON,                   -- of their 95 % intervals: traffic's and the simulation's noise
    gain        DOUBLE,                 -- of the winner over this one, in the objective: 0.1 is 10 % better
    gain_half_width DOUBLE,             -- paired: the same draws
    violations  JSON,
    feasible    BOOLEAN,
    PRIMARY KEY (study_id, load, place)
);

-- What else was asked of the search's prompts: which knobs matter, and how far the optimum moves.
CREATE TABLE sensitivities (
    study_id    VARCHAR NOT NULL,
    load        VARCHAR NOT NULL,
    kind        VARCHAR NOT NULL,       -- 'importance', 'load', 'mix', 'verify' or 'elsewhere' (the same configuration at another load)
    what        VARCHAR NOT NULL,       -- parameter, or what is off, as '+20 % code'
    share       DOUBLE,                 -- importance: of the objective's variance
    best        JSON,                   -- the configuration that is best then, of those compared
    moved       BOOLEAN,                -- whether it is another one
    loss        DOUBLE,                 -- of keeping the winner: 0.01 is 1 %
    keeps       BOOLEAN,                -- whether the winner then keeps the bounds
    PRIMARY KEY (study_id, load, kind, what)
);
