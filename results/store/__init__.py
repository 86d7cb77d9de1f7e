"""The DuckDB file: a versioned schema, one file for each group of tables."""
