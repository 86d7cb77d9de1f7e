-- Schema 3: confidences estimated for drafters without a head; simulations of a run's traces, in sweeps over loads,
-- drafters, policies and seeds.

-- max_v q_k(v) at temperature 1; NULL with a confidence head, or without distributions. Views do not outlive a new column.
DROP VIEW calibrated_anchors;
ALTER TABLE anchors ADD COLUMN certainty FLOAT[];
CREATE VIEW calibrated_anchors AS
WITH temperatures AS (
    SELECT run_id, drafter, gamma, list(temperature ORDER BY position) AS t FROM calibrations GROUP BY ALL
)
SELECT a.*, CASE WHEN a.confidence IS NOT NULL AND t.t IS NOT NULL THEN list_transform(
    list_zip(a.confidence, t.t),
    lambda x: CASE WHEN x[1] <= 0 OR x[1] >= 1 THEN x[1] ELSE 1 / (1 + exp(-ln(x[1] / (1 - x[1])) / x[2])) END
)::FLOAT[] END AS calibrated
FROM anchors a LEFT JOIN temperatures t USING (run_id, drafter, gamma);

-- Estimated confidences c_k = σ(intercept + slope · logit(certainty_k)), and how good they are on other prompts.
CREATE TABLE estimates (
    run_id       VARCHAR NOT NULL,
    drafter      VARCHAR NOT NULL,
    gamma        UTINYINT NOT NULL,
    position     UTINYINT NOT NULL,   -- from 1
    intercept    DOUBLE NOT NULL,
    slope        DOUBLE NOT NULL,
    fit_prompts  UINTEGER NOT NULL,   -- held out for fitting
    fit_anchors  UINTEGER NOT NULL,   -- of these, with all positions before accepted: what was fitted on
    test_prompts UINTEGER NOT NULL,   -- everything below is of these
    test_anchors UINTEGER NOT NULL,
    observed     DOUBLE NOT NULL,     -- share of anchors with this position and all before it accepted
    ece          DOUBLE NOT NULL,     -- of the survival c_1···c_k, as the next two
    auc          DOUBLE,              -- NULL where all anchors ended alike
    brier        DOUBLE NOT NULL,
    PRIMARY KEY (run_id, drafter, gamma, position)
);

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
    confidences   VARCHAR NOT NULL,     -- 'raw', 'calibrated' or 'estimated', as the policy saw them; 'none' if it looks at none
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
