"""Time and threads: timers, thread pools, delivery of events, and waits."""
