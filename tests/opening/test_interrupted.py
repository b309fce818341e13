"""Ctrl-C at any place of an opening, or of its end, holds nothing back: the cell runs again."""

from __future__ import annotations

import itertools
import random

import pytest
from support.accounts import Account, Service, first_step
from support.interrupts import interrupted_at


# An interrupt that comes as something is thrown away is lost.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("has_journal", "every"), [(False, 9), (True, 61)])
def test_a_cell_that_was_interrupted_anywhere_is_run_again(opened, tmp_path, has_journal, every):
    for place in itertools.count(random.randrange(every), every):
        name, service = f"sft-{place}", Service(Account())
        options = {"journal": tmp_path / f"{name}.db"} if has_journal else {}

        def cell(name=name, service=service, options=options):
            with opened(name, service, again=True, **options) as run:
                return first_step(run)

        is_over = not interrupted_at(place, cell)
        assert cell() == 0, place
        if is_over:
            break
    assert place > 100
