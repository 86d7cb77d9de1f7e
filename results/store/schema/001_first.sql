-- Schema 1: a run, its responses, their rounds, and the speed samples of its live pass.

CREATE TABLE runs (
    run_id        VARCHAR PRIMARY KEY,
    created_at    TIMESTAMP NOT NULL,   -- UTC
    finished_at   TIMESTAMP,            -- UTC; NULL while running or interrupted
    command       VARCHAR NOT NULL,     -- as typed
    suite         VARCHAR NOT NULL,
    suite_version INTEGER NOT NULL,
    suite_hash    VARCHAR NOT NULL,     -- SHA-256 over settings and the prompts really used
    prompt_source VARCHAR NOT NULL,     -- 'bundled', 'data-dir' or 'hub'
    pair          VARCHAR NOT NULL,
    target        JSON NOT NULL,        -- {"source":…, "hash":…, "dtype":…, "device":…}
    drafters      JSON NOT NULL,        -- {name: {"kind":…, "gamma":…, "checkpoint":…, "checkpoint_hash":…}}
    sampling      JSON NOT NULL,        -- {"temperature":…, "top_p":…, "top_k":…, "max_new_tokens":…}
    seed          BIGINT NOT NULL,
    plan          JSON NOT NULL,        -- everything `--resume` needs to repeat the same work
    git_revision  VARCHAR,
    packages      JSON NOT NULL,        -- {distribution: version}
    host          JSON NOT NULL         -- {"cpu":…, "cores":…, "memory_bytes":…, "gpu":…, "python":…, "platform":…}
);

CREATE TABLE responses (
    run_id        VARCHAR NOT NULL,
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,    -- drafted block size; 0 for 'none'
    task          VARCHAR NOT NULL,
    domain        VARCHAR NOT NULL,     -- 'math', 'code' or 'chat' in the bundled suite
    prompt_id     VARCHAR NOT NULL,
    turn          UTINYINT NOT NULL,    -- from 0
    prompt_tokens UINTEGER NOT NULL,
    output_tokens UINTEGER NOT NULL,
    finish        VARCHAR NOT NULL,     -- 'stop' (an end token) or 'length'
    token_ids     UINTEGER[] NOT NULL,
    text          VARCHAR NOT NULL,
    PRIMARY KEY (run_id, drafter, gamma, prompt_id, turn)
);

CREATE TABLE rounds (
    run_id        VARCHAR NOT NULL,
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,
    prompt_id     VARCHAR NOT NULL,
    turn          UTINYINT NOT NULL,
    round         USMALLINT NOT NULL,   -- from 0 within the response
    drafted       UTINYINT NOT NULL,
    verified      UTINYINT NOT NULL,    -- draft tokens sent to the target
    accepted      UTINYINT NOT NULL,    -- draft tokens kept
    committed     UTINYINT NOT NULL,    -- tokens that entered the response, bonus included
    confidence    FLOAT[] NOT NULL,     -- raw c_1..c_drafted; [] without a confidence head
    running       USMALLINT NOT NULL,   -- requests in the batch of this round
    draft_s       FLOAT NOT NULL,       -- wall-clock of the whole batch
    verify_s      FLOAT NOT NULL,       -- wall-clock of the whole batch
    PRIMARY KEY (run_id, drafter, gamma, prompt_id, turn, round)
);

CREATE TABLE speed_samples (
    run_id        VARCHAR NOT NULL,
    drafter       VARCHAR NOT NULL,
    gamma         UTINYINT NOT NULL,
    sample        USMALLINT NOT NULL,   -- which pass over the drafters; samples of one number were run back to back
    prompt_id     VARCHAR NOT NULL,
    batch         USMALLINT NOT NULL,   -- requests decoded together
    tokens        UINTEGER NOT NULL,    -- tokens committed in rounds
    seconds       DOUBLE NOT NULL,      -- wall-clock of those rounds, prefill excluded
    PRIMARY KEY (run_id, drafter, gamma, sample, prompt_id)
);

-- A ready view for people: accepted length by drafter and task.
CREATE VIEW accepted_length AS
SELECT r.run_id, r.drafter, r.gamma, s.domain, s.task,
       sum(r.committed) / count(*) AS tau, count(*) AS rounds, count(DISTINCT (r.prompt_id, r.turn)) AS responses
FROM rounds r JOIN responses s USING (run_id, drafter, gamma, prompt_id, turn)
GROUP BY ALL;
