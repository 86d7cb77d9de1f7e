-- Schema 3: simulations of a run's traces, in sweeps over loads, drafters, policies and seeds.

CREATE TABLE profiles (
    profile_hash VARCHAR PRIMARY KEY,   -- SHA-256 of the JSON
    name         VARCHAR NOT NULL,
    device       VARCHAR NOT NULL,
    model        VARCHAR NOT NULL,
    source       VARCHAR NOT NULL,      -- 'measured', 'fitted', 'published', 'roofline' or 'user'
    gpus         INTEGER NOT NULL,
    profile      JSON NOT NULL          -- as a file
);

CREATE TABLE sweeps (
    sweep_id     VARCHAR PRIMARY KEY,
    run_id       VARCHAR NOT NULL,
    created_at   TIMESTAMP NOT NULL,    -- UTC
    finished_at  TIMESTAMP,             -- UTC; NULL while running or interrupted
    command      VARCHAR NOT NULL,
    plan         JSON NOT NULL,         -- everything `--resume` needs to repeat the same work
    git_revision VARCHAR,
    packages     JSON NOT NULL
);

CREATE TABLE simulations (
    sweep_id      VARCHAR NOT NULL,
    point         UINTEGER NOT NULL,    -- number in the sweep, from 0
    run_id        VARCHAR NOT NULL,
    error         VARCHAR,              -- why there is no result; the columns below policy are then NULL
    profile_hash  VARCHAR NOT NULL,
    believed_hash VARCHAR,              -- what the policy thought; NULL: the truth
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,    -- drafted block size
    confidences   VARCHAR NOT NULL,     -- 'raw', 'calibrated' or 'none'
    policy        VARCHAR NOT NULL,
    lossless      BOOLEAN NOT NULL,     -- false: a bound
    exact         BOOLEAN NOT NULL,     -- whether replaying has the law of a live run
    users         UINTEGER,             -- of a closed loop
    rate_per_s    DOUBLE,               -- of an open loop
    arrivals      VARCHAR,              -- recorded ones: the file's name
    load          JSON NOT NULL,
    engine        JSON NOT NULL,
    seed          BIGINT NOT NULL,
    wall_s        DOUBLE,               -- what the simulation took here
    simulated_s   DOUBLE,
    warmup_s      DOUBLE,
    finished      UBIGINT,              -- requests
    throughput    DOUBLE,               -- output tokens per second and GPU
    throughput_half_width DOUBLE,       -- of the 95 % interval, as in the next ones; NULL where too short to tell
    tps           DOUBLE,               -- mean over users
    tps_half_width DOUBLE,
    tau           DOUBLE,
    tau_half_width DOUBLE,
    budget        DOUBLE,
    budget_half_width DOUBLE,
    wasted        DOUBLE,
    running       DOUBLE,
    kv_used       DOUBLE,
    preemptions   UBIGINT,
    attainment    DOUBLE,
    goodput       DOUBLE,
    stationary    BOOLEAN,
    means         JSON,                 -- tps, ttft, tpot, e2e
    quantiles     JSON,                 -- p5_tps, p50_ttft, …
    step_s        JSON,                 -- by part
    burst_s       DOUBLE,
    slas          JSON,                 -- bound → kept
    warnings      VARCHAR[],
    PRIMARY KEY (sweep_id, point)
);
