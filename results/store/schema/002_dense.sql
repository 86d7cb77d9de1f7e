-- Schema 2: dense recordings. The target's own responses (drafter 'none') are recorded once and shared by all drafters.

ALTER TABLE responses ADD COLUMN beyond UINTEGER[];   -- what the target said next where the length limit cut it, for acceptances
ALTER TABLE rounds ALTER COLUMN draft_s DROP NOT NULL;    -- NULL: replayed from anchors, no clock ran
ALTER TABLE rounds ALTER COLUMN verify_s DROP NOT NULL;

-- One row for each response of 'none' that a drafter was recorded on.
CREATE TABLE recordings (
    run_id    VARCHAR NOT NULL,
    drafter   VARCHAR NOT NULL,
    gamma     UTINYINT NOT NULL,
    prompt_id VARCHAR NOT NULL,
    turn      UTINYINT NOT NULL,
    anchors   UINTEGER NOT NULL,        -- output_tokens − 1
    PRIMARY KEY (run_id, drafter, gamma, prompt_id, turn)
);

-- One row an anchor. No key: over so narrow a table its index would be the larger part.
CREATE TABLE anchors (
    run_id           VARCHAR NOT NULL,
    drafter          VARCHAR NOT NULL,
    gamma            UTINYINT NOT NULL,
    prompt_id        VARCHAR NOT NULL,
    turn             UTINYINT NOT NULL,
    anchor           UINTEGER NOT NULL,   -- response token drafted from, from 1
    drafted          UTINYINT NOT NULL,
    accepted         UTINYINT NOT NULL,   -- draft tokens kept if all are verified
    accept_prob      FLOAT[] NOT NULL,    -- β_1..β_γ
    confidence       FLOAT[],             -- raw c_1..c_γ; NULL without a confidence head
    fresh_confidence FLOAT[]              -- of a second draft that never looks at the response; NULL where not recorded
);

-- Sequential temperature scaling, and what it does to the prompts it was not fitted on.
CREATE TABLE calibrations (
    run_id       VARCHAR NOT NULL,
    drafter      VARCHAR NOT NULL,
    gamma        UTINYINT NOT NULL,
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
    PRIMARY KEY (run_id, drafter, gamma, position)
);

-- Responses by the drafter they were recorded with, decoded live or read along.
CREATE VIEW recorded_responses AS
SELECT run_id, drafter, gamma, task, domain, prompt_id, turn, prompt_tokens, output_tokens, finish FROM responses
UNION ALL
SELECT d.run_id, d.drafter, d.gamma, s.task, s.domain, s.prompt_id, s.turn, s.prompt_tokens, s.output_tokens, s.finish
FROM recordings d JOIN responses s ON s.run_id = d.run_id AND s.drafter = 'none' AND s.prompt_id = d.prompt_id AND s.turn = d.turn;

-- Anchors with calibrated confidences σ(logit(c_k) / T_k); NULL where the run has no temperatures.
CREATE VIEW calibrated_anchors AS
WITH temperatures AS (
    SELECT run_id, drafter, gamma, list(temperature ORDER BY position) AS t FROM calibrations GROUP BY ALL
)
SELECT a.*, list_transform(
    list_zip(a.confidence, t.t),
    lambda x: CASE WHEN x[1] <= 0 OR x[1] >= 1 THEN x[1] ELSE 1 / (1 + exp(-ln(x[1] / (1 - x[1])) / x[2])) END
)::FLOAT[] AS calibrated
FROM anchors a LEFT JOIN temperatures t USING (run_id, drafter, gamma);

DROP VIEW accepted_length;
CREATE VIEW accepted_length AS
SELECT r.run_id, r.drafter, r.gamma, s.domain, s.task,
       sum(r.committed) / count(*) AS tau, count(*) AS rounds, count(DISTINCT (r.prompt_id, r.turn)) AS responses
FROM rounds r JOIN recorded_responses s USING (run_id, drafter, gamma, prompt_id, turn)
GROUP BY ALL;
