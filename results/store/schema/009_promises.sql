-- Schema 9: a bound is a promise to a share of requests, counted one by one. What older databases call tps>=80 was a bound on
-- the mean, and is called so now; p95_ttft<=0.5 was, and is, kept by 95 % of requests.

ALTER TABLE simulations ADD COLUMN attained JSON;      -- bound → share of requests that kept it, or the mean; bounds of one share also together
ALTER TABLE simulations ADD COLUMN keeps_up BOOLEAN;   -- what arrives is answered; NULL: too short to tell, or not asked then

UPDATE simulations SET slas = regexp_replace(slas::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON;
UPDATE sweeps SET plan = regexp_replace(plan::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON;
UPDATE studies SET plan = regexp_replace(plan::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON;
UPDATE trials SET
    violations = regexp_replace(violations::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON,
    rungs = regexp_replace(rungs::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON,
    figures = regexp_replace(figures::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON;
UPDATE confirmations SET
    violations = regexp_replace(violations::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON,
    half_widths = regexp_replace(half_widths::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON,
    figures = regexp_replace(figures::VARCHAR, '"(tps|ttft|tpot|e2e)(>=|<=)', '"mean_\1\2', 'g')::JSON;
