"""Recovery: incidents, their attempts, and what follows from each."""
