"""A server that is down while a run is trained: noticed, waited for, and its runs settled."""
