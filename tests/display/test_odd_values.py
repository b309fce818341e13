"""Values at the edge: what is shown of them, and that nothing raises or moves a cursor."""

from __future__ import annotations

import io
from functools import partial

import pytest
from support.events import event
from support.world import RUN, weights

from tinkex import Checkpoint, Policy
from tinkex.display.screens import Lines
from tinkex.display.table import ROWS_SHOWN, Cell, Table
from tinkex.display.words import name_of, short_id
from tinkex.runs.state import Generation, Lineage
from tinkex.signals.words import in_words

pytestmark = pytest.mark.usefixtures("no_environment")

FIRST, LAST = "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"


def saved(**more):
    return Checkpoint.from_json({"tinker_path": weights("000001"), **more})


@pytest.mark.parametrize(("time", "told"), [(FIRST, "00:00:00 UTC"), (LAST, "23:59:59 UTC")])
def test_a_time_that_utc_does_not_have_is_the_nearest(time, told):
    checkpoint = saved(time=time, expires_at=time)

    assert told in repr(checkpoint)
    assert told[:8] in checkpoint._repr_html_()


@pytest.mark.parametrize("time", [FIRST, LAST])
def test_runs_with_such_a_time_are_shown(world, time):
    row = {"tinker_path": weights("000001"), "time": time, "expires_at": LAST}
    world.rest.set_run(RUN, last_checkpoint=row)
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(30)

    assert "000001" in repr(monitor.status())
    assert "000001" in monitor._repr_html_()


@pytest.mark.parametrize("number", [10**400, -1, 0])
def test_any_whole_number_is_a_size(number):
    assert "B>" in repr(saved(size_bytes=number))


def test_a_path_moves_no_cursor():
    checkpoint = Checkpoint.from_json({"tinker_path": f"{weights('a')}\x1b[2J\r\n"})

    assert repr(checkpoint).isprintable()


def test_a_line_of_a_live_view_moves_no_cursor():
    stream = io.StringIO()

    Lines(stream).show(Table.of("", (), (), tuple), "", ["a\x1b[2J\rb"])

    assert stream.getvalue() == "tinkex: a [2J b\n"


def test_half_of_a_character_ends_no_page():
    checkpoint = Checkpoint.from_json({"tinker_path": weights("cut \ud83d")})

    # A kernel sends pages as UTF-8.
    assert b"cut ?" in checkpoint._repr_html_().encode()


class MuteError(Exception):
    """Has no words, in no way."""

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__

    def __call__(self, *_):
        raise AssertionError

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = Exception.__hash__


def test_what_has_no_words_is_shown_as_its_class():
    assert Cell.long(MuteError()).text == "<MuteError>"
    assert in_words(event("failed", error=MuteError())) == "attempt 1 failed: <MuteError>"


def test_of_a_huge_text_only_the_beginning_is_in_a_page():
    assert len(Table.of("", ("",), ["x\n" * 10**6], lambda it: (Cell.long(it),)).html()) < 10_000


def notify(key):
    """What a partial or a bound method may stand for."""


class Bot:
    """Shows its key, as a dataclass does."""

    def __repr__(self):
        return "Bot(key='tml-secret')"

    def notify(self, *_):
        """Say it."""

    def __call__(self, *_):
        """Say it."""


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (partial(notify, "tml-secret"), "<partial>"),
        (Bot().notify, "<Bot.notify>"),
        (Bot(), "<Bot>"),
        (MuteError(), "<MuteError>"),
        (notify, "<notify>"),
        (print, "<print>"),
    ],
)
def test_a_policy_tells_the_names_of_callbacks_alone(callback, told):
    policy = Policy(enabled=True, on_recovery=callback)

    assert repr(policy) == f"Policy(enabled=True, on_recovery={told})"
    assert "tml-secret" not in policy._repr_html_()


@pytest.mark.parametrize("tell", [short_id, name_of])
def test_an_id_and_a_name_move_no_cursor(tell):
    assert tell("a\x1b[2J\r\nb").isprintable()


def test_of_a_long_lineage_the_last_generations_are_shown():
    lineage = Lineage(
        Generation(run_id=f"run-{number}", started_at=None) for number in range(ROWS_SHOWN + 50)
    )

    title, _, *rows = repr(lineage).splitlines()
    assert title == f"150 generations, of which these are the last {ROWS_SHOWN}"
    assert [row.strip() for row in rows] == [f"run-{number}" for number in range(50, 150)]
