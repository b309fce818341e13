"""The tests of docs/testing.md, which pytest runs with the plugin as a user would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
SCRIPT, TESTS, FAKES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.S | re.M)

pytest_plugins = ["pytester"]


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_script_is_rehearsed(pytester):
    pytester.makepyfile(train=SCRIPT, test_train=TESTS)

    ended = pytester.runpytest_subprocess("-p", "no:xdist")

    ended.assert_outcomes(passed=TESTS.count("def test_"))


def test_the_fakes_are_used(pytester):
    pytester.makepyfile(FAKES)

    ended = pytester.runpytest_subprocess("-p", "no:xdist")

    ended.assert_outcomes(passed=FAKES.count("def test_"))
