"""Measures how fast tinkex polls, compared with a minimal program and with the official SDK.

`python -m tests.benchmarks` measures everything in some minutes, `--quick` the smaller sizes in
less than one. Each measurement has a fresh process; all send requests to one server on this
machine, in one more process, which counts them.
"""
