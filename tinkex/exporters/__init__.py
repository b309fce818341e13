"""What monitors tell, for other systems: metrics, traces and structured log records."""
