"""What runs leave behind: the DuckDB store, the figures read from it, the report drawn from those."""
