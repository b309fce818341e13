"""Loops of many shapes, corrupted and interrupted: each ends exact, or with a clear error."""
