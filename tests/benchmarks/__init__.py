"""How fast tinkex polls, beside a bare floor and beside the official SDK.

`python -m tests.benchmarks` measures everything in some minutes, `--quick` the smaller sizes in
less than one. Each measurement has a fresh process of its own; all of them ask one server on
this machine, in one more process, that counts what it is asked.
"""
