"""The training loop's side: segments, and the errors that a loop meets."""
