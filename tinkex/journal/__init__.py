"""A file that outlives the process: what became of runs, and who recovers them."""
