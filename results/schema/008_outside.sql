-- Schema 8: of a response that the target read again for a dense recording, how many tokens it then could not say: greedy choices,
-- top-k or top-p that rounding decides otherwise than where the response was generated.

ALTER TABLE responses ADD COLUMN outside UINTEGER;   -- of output_tokens − 1, the first token being nobody's draft; NULL where not read
