"""Polling: which requests a sweep makes, on which threads, and what its answers mean."""
