"""The HTTP side of the rehearsal server: routes, faults, and the thread that serves them."""
