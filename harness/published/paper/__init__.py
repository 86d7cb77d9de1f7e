"""The DSpark paper's served systems, predicted from what it publishes of low load."""
