-- Schema 15: what a drafter with a reduced vocabulary cannot say, whatever it drafts.

ALTER TABLE anchors ADD COLUMN outside FLOAT[];   -- Σ p(v) over the target's tokens that it lacks, [γ]; NULL: it lacks none
