-- Schema 11: how many times its load a simulation would hold within its promises.

ALTER TABLE simulations ADD COLUMN headroom DOUBLE;   -- 64: as many or more; 0: less than one in 64; NULL: not asked
