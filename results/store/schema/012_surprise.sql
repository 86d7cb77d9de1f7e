-- Schema 12: how surprising a response is to the target that reads it: what is drawn from the target itself is not, in the mean.

ALTER TABLE readings ADD COLUMN surprise DOUBLE;   -- sum of −log p(y) − H(p) over the tokens that it can say; NULL: not asked then
ALTER TABLE readings ADD COLUMN variance DOUBLE;   -- of that sum, for responses drawn from the target; both 0 at temperature 0
