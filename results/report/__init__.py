"""A report of runs: one HTML page that opens offline, or its figures one by one."""
