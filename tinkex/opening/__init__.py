"""Bringing back a run by its name or id."""
