"""Monitoring and recovery: what a run goes through, from poll to successor."""
