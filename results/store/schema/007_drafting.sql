-- Schema 7: how drafts were chosen is part of a recording's key. 'sampled': drawn from q; 'greedy': argmax q; 'either': both ways
-- draft the same (temperature 0, or a one-hot q), kept once for both. What older versions recorded was sampled. A filter is
-- written `drafting IN ('greedy', 'either')`.

DROP VIEW accepted_length;
DROP VIEW calibrated_anchors;
DROP VIEW recorded_responses;

-- Of every drafter of every run before: what its recordings hold for.
CREATE TEMP TABLE drafted AS
SELECT run_id, drafter, CASE
    WHEN coalesce(TRY_CAST(json_extract_string(sampling, '$.temperature') AS DOUBLE), 1) = 0
      OR coalesce(json_extract_string(drafters, '$."' || drafter || '".kind'), drafter) IN ('none', 'ngram')
    THEN 'either' ELSE 'sampled' END AS drafting
FROM (SELECT run_id, sampling, drafters, unnest(json_keys(drafters)) AS drafter FROM runs);

ALTER TABLE anchors ADD COLUMN drafting VARCHAR DEFAULT 'sampled';
UPDATE anchors SET drafting = 'either' FROM drafted d
WHERE d.run_id = anchors.run_id AND d.drafter = anchors.drafter AND d.drafting = 'either';

-- A key cannot be changed: these tables are made anew.
ALTER TABLE responses RENAME TO old_responses;
CREATE TABLE responses (
    run_id        VARCHAR NOT NULL,
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,    -- drafted block size; 0 for 'none'
    drafting      VARCHAR NOT NULL DEFAULT 'sampled',   -- 'sampled', 'greedy' or 'either', as in all tables below
    task          VARCHAR NOT NULL,
    domain        VARCHAR NOT NULL,     -- 'math', 'code' or 'chat' in the bundled suite
    prompt_id     VARCHAR NOT NULL,
    turn          UTINYINT NOT NULL,    -- from 0
    prompt_tokens UINTEGER NOT NULL,
    output_tokens UINTEGER NOT NULL,
    finish        VARCHAR NOT NULL,     -- 'stop' (an end token) or 'length'
    token_ids     UINTEGER[] NOT NULL,
    text          VARCHAR NOT NULL,
    beyond        UINTEGER[],           -- what the target said next where the length limit cut it, for acceptances
    PRIMARY KEY (run_id, drafter, gamma, drafting, prompt_id, turn)
);
INSERT INTO responses BY NAME
SELECT o.*, coalesce(d.drafting, 'sampled') AS drafting FROM old_responses o LEFT JOIN drafted d USING (run_id, drafter);
DROP TABLE old_responses;

ALTER TABLE rounds RENAME TO old_rounds;
CREATE TABLE rounds (
    run_id        VARCHAR NOT NULL,
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,
    drafting      VARCHAR NOT NULL DEFAULT 'sampled',
    prompt_id     VARCHAR NOT NULL,
    turn          UTINYINT NOT NULL,
    round         USMALLINT NOT NULL,   -- from 0 within the response
    drafted       UTINYINT NOT NULL,
    verified      UTINYINT NOT NULL,    -- draft tokens sent to the target
    accepted      UTINYINT NOT NULL,    -- draft tokens kept
    committed     UTINYINT NOT NULL,    -- tokens that entered the response, bonus included
    confidence    FLOAT[] NOT NULL,     -- raw c_1..c_drafted; [] without a confidence head
    running       USMALLINT NOT NULL,   -- requests in the batch of this round
    draft_s       FLOAT,                -- wall-clock of the whole batch; NULL: replayed from anchors, no clock ran
    verify_s      FLOAT,
    PRIMARY KEY (run_id, drafter, gamma, drafting, prompt_id, turn, round)
);
INSERT INTO rounds BY NAME
SELECT o.*, coalesce(d.drafting, 'sampled') AS drafting FROM old_rounds o LEFT JOIN drafted d USING (run_id, drafter);
DROP TABLE old_rounds;

ALTER TABLE recordings RENAME TO old_recordings;
CREATE TABLE recordings (
    run_id    VARCHAR NOT NULL,
    drafter   VARCHAR NOT NULL,
    gamma     UTINYINT NOT NULL,
    drafting  VARCHAR NOT NULL DEFAULT 'sampled',
    prompt_id VARCHAR NOT NULL,
    turn      UTINYINT NOT NULL,
    anchors   UINTEGER NOT NULL,        -- output_tokens − 1
    PRIMARY KEY (run_id, drafter, gamma, drafting, prompt_id, turn)
);
INSERT INTO recordings BY NAME
SELECT o.*, coalesce(d.drafting, 'sampled') AS drafting FROM old_recordings o LEFT JOIN drafted d USING (run_id, drafter);
DROP TABLE old_recordings;

ALTER TABLE calibrations RENAME TO old_calibrations;
CREATE TABLE calibrations (
    run_id       VARCHAR NOT NULL,
    drafter      VARCHAR NOT NULL,
    gamma        UTINYINT NOT NULL,
    drafting     VARCHAR NOT NULL DEFAULT 'sampled',
    position     UTINYINT NOT NULL,   -- from 1
    temperature  DOUBLE NOT NULL,
    fit_prompts  UINTEGER NOT NULL,   -- held out for fitting
    fit_anchors  UINTEGER NOT NULL,
    test_prompts UINTEGER NOT NULL,   -- everything below is of these
    test_anchors UINTEGER NOT NULL,
    observed     DOUBLE NOT NULL,     -- share of anchors with this position and all before it accepted
    ece_before   DOUBLE NOT NULL,
    ece_after    DOUBLE NOT NULL,
    auc_before   DOUBLE,              -- NULL where all anchors ended alike
    auc_after    DOUBLE,
    brier_before DOUBLE NOT NULL,
    brier_after  DOUBLE NOT NULL,
    PRIMARY KEY (run_id, drafter, gamma, drafting, position)
);
INSERT INTO calibrations BY NAME
SELECT o.*, coalesce(d.drafting, 'sampled') AS drafting FROM old_calibrations o LEFT JOIN drafted d USING (run_id, drafter);
DROP TABLE old_calibrations;

ALTER TABLE estimates RENAME TO old_estimates;
CREATE TABLE estimates (
    run_id       VARCHAR NOT NULL,
    drafter      VARCHAR NOT NULL,
    gamma        UTINYINT NOT NULL,
    drafting     VARCHAR NOT NULL DEFAULT 'sampled',
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
    PRIMARY KEY (run_id, drafter, gamma, drafting, position)
);
INSERT INTO estimates BY NAME
SELECT o.*, coalesce(d.drafting, 'sampled') AS drafting FROM old_estimates o LEFT JOIN drafted d USING (run_id, drafter);
DROP TABLE old_estimates;

-- What simulates or decodes live drafts one way throughout; a study's plan says which.
ALTER TABLE speed_samples ADD COLUMN drafting VARCHAR DEFAULT 'sampled';
ALTER TABLE simulations ADD COLUMN drafting VARCHAR DEFAULT 'sampled';
ALTER TABLE validations ADD COLUMN drafting VARCHAR DEFAULT 'sampled';
ALTER TABLE tolerances ADD COLUMN drafting VARCHAR DEFAULT 'sampled';

DROP TABLE drafted;

-- Responses by the drafter they were recorded with, decoded live or read along.
CREATE VIEW recorded_responses AS
SELECT run_id, drafter, gamma, drafting, task, domain, prompt_id, turn, prompt_tokens, output_tokens, finish FROM responses
UNION ALL
SELECT d.run_id, d.drafter, d.gamma, d.drafting, s.task, s.domain, s.prompt_id, s.turn, s.prompt_tokens, s.output_tokens,
       s.finish
FROM recordings d JOIN responses s ON s.run_id = d.run_id AND s.drafter = 'none' AND s.prompt_id = d.prompt_id AND s.turn = d.turn;

-- Anchors with calibrated confidences σ(logit(c_k) / T_k); NULL where the run has no temperatures.
CREATE VIEW calibrated_anchors AS
WITH temperatures AS (
    SELECT run_id, drafter, gamma, drafting, list(temperature ORDER BY position) AS t FROM calibrations GROUP BY ALL
)
SELECT a.*, CASE WHEN a.confidence IS NOT NULL AND t.t IS NOT NULL THEN list_transform(
    list_zip(a.confidence, t.t),
    lambda x: CASE WHEN x[1] <= 0 OR x[1] >= 1 THEN x[1] ELSE 1 / (1 + exp(-ln(x[1] / (1 - x[1])) / x[2])) END
)::FLOAT[] END AS calibrated
FROM anchors a LEFT JOIN temperatures t USING (run_id, drafter, gamma, drafting);

CREATE VIEW accepted_length AS
SELECT r.run_id, r.drafter, r.gamma, r.drafting, s.domain, s.task,
       sum(r.committed) / count(*) AS tau, count(*) AS rounds, count(DISTINCT (r.prompt_id, r.turn)) AS responses
FROM rounds r JOIN recorded_responses s USING (run_id, drafter, gamma, drafting, prompt_id, turn)
GROUP BY ALL;
