-- Schema 10: decisions: of a study's load or of a sweep, the configuration to run, its command, its gains and how sure they are.

CREATE TABLE decisions (
    subject  VARCHAR NOT NULL,   -- a study's or a sweep's id
    load     VARCHAR NOT NULL,   -- as users write it
    decision JSON NOT NULL,
    PRIMARY KEY (subject, load)
);
