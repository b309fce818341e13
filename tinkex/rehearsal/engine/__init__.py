"""The training side of the rehearsal server: a small model, its runs and its checkpoints."""
