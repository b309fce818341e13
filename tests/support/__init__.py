"""What tests of several wings share; pytest has the folder `tests` on its path."""

from __future__ import annotations

from pathlib import Path

import pytest

#: What real servers answered.
DATA = Path(__file__).parents[1] / "data"

# What these assert is told as in a test.
pytest.register_assert_rewrite(
    "support.http_servers", "support.real_threads", "support.recorder", "support.sites"
)
