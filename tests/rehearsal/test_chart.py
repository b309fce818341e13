"""Charts of characters: what is drawn where, and how wide."""

from __future__ import annotations

import pytest

from tinkex.rehearsal.chart import Panel, draw

FALLING = [(step, 4.0 - step) for step in range(5)]


def falling(title="loss", **options):
    return Panel(title=title, points=FALLING, **options)


def test_a_falling_line_goes_from_corner_to_corner():
    lines = draw([falling()], width=30, height=5, plain=True)

    assert lines == [
        "    loss",
        " 4 |****",
        "   |    *****",
        " 2 |         *******",
        "   |                ******",
        " 0 |                      ****",
        "   +--------------------------",
        "    0                        4",
    ]


def test_braille_draws_the_same_line_finer():
    lines = draw([falling()], width=30, height=3)

    assert lines == [
        "    loss",
        " 4 │⠉⠑⠒⠢⠤⢄⣀⣀",
        " 2 │        ⠉⠉⠒⠒⠤⠤⠤⣀⣀⡀",
        " 0 │                 ⠈⠉⠉⠑⠒⠢⠤⢄⣀",
        "   └──────────────────────────",
        "    0                        4",
    ]


def test_a_mark_stands_where_the_curve_is_not_and_is_named_below():
    lines = draw([falling(marks=[2])], width=31, height=3, plain=True)

    columns = [line.find(":") for line in lines]
    assert len({column for column in columns if column >= 0}) == 1
    at = max(columns)
    assert lines[2][at] == "*"
    assert lines[-2][at] == "^"
    assert lines[-1][at] == "2"


def test_each_mark_has_its_line_and_its_step():
    lines = draw([falling(marks=[1, 2, 3])], width=40, height=3, plain=True)

    places = [column for column, sign in enumerate(lines[-2]) if sign == "^"]
    assert [lines[-1][column] for column in places] == ["1", "2", "3"]


def test_a_mark_at_the_end_does_not_write_over_the_last_step():
    lines = draw([falling(marks=[4])], width=30, height=3, plain=True)

    assert lines[-1] == "    0                        4"


def test_panels_stand_beside_each_other_on_one_scale():
    other = Panel(title="other", points=[(0, 4.0), (4, 8.0)])

    lines = draw([falling("one"), other], width=80, height=9, plain=True)

    assert len(lines) == 12
    assert "one" in lines[0]
    assert "other" in lines[0]
    assert lines[1].lstrip().startswith("8")
    assert "*" not in lines[1][:40]
    assert lines[9].lstrip().startswith("0")
    assert "*" not in lines[9][41:]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("width", [60, 61, 79, 80, 120, 200])
def test_no_line_is_wider_than_asked_for_and_the_room_is_used(width, plain):
    lines = draw([falling("one"), falling("two", marks=[3])], width=width, plain=plain)

    assert width - 2 <= max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def test_panels_stand_below_each_other_where_there_is_no_room():
    lines = draw([falling("one"), falling("two")], width=50, height=4, plain=True)

    assert len(lines) == 14
    assert [line.strip() for line in lines if line.strip() in ("one", "two")] == ["one", "two"]
    assert max(map(len, lines)) <= 50


def test_it_is_never_narrower_than_can_be_read():
    assert draw([falling()], width=1) == draw([falling()], width=30)


def test_a_title_that_is_too_long_is_cut():
    lines = draw([falling("x" * 200)], width=40, plain=True)

    assert max(map(len, lines)) <= 40


def test_a_curve_that_is_flat_lies_in_the_middle():
    flat = Panel(title="flat", points=[(0, 0.0), (9, 0.0)])

    lines = draw([flat], width=30, height=3, plain=True)

    assert lines[2] == " 0 |" + "*" * 26
    assert "*" not in lines[1] + lines[3]


def test_a_single_point_is_drawn():
    lines = draw([Panel(title="one", points=[(7, 1.0)])], height=3, plain=True)

    assert "".join(lines).count("*") == 1


def test_the_labels_take_at_least_the_margin():
    narrow, wide = (draw([falling()], margin=margin, plain=True)[1] for margin in (0, 12))

    assert narrow.index("|") == 3
    assert wide.index("|") == 12


def test_plain_charts_are_ascii():
    assert "\n".join(draw([falling(marks=[1])], plain=True)).isascii()


@pytest.mark.parametrize("panels", [[], [Panel(title="empty", points=[])]])
def test_nothing_to_draw_is_an_error(panels):
    with pytest.raises(ValueError, match="needs panels, and each of them points"):
        draw(panels)
