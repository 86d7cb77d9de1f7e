-- Schema 8: readings: the responses that a run's target read as a whole for a dense recording, and how often it then had to
-- disagree. Rounding decides a greedy choice, top-k or top-p otherwise than where a response was generated, now and then.

CREATE TABLE readings (
    run_id    VARCHAR NOT NULL,
    prompt_id VARCHAR NOT NULL,
    turn      UTINYINT NOT NULL,
    tokens    UINTEGER NOT NULL,   -- of the response but the first, which is nobody's draft
    outside   UINTEGER NOT NULL,   -- of them, such as the target, under the run's sampling settings, cannot say
    PRIMARY KEY (run_id, prompt_id, turn)
);
