"""Training processes that are killed, at random and at every point: their runs go on, exact."""
