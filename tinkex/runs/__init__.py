"""What is known of each run: its record, its lineage, and the map of all runs."""
