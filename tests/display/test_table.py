"""Tables: for a notebook and for a prompt."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from tinkex.display.table import ROWS_SHOWN, TEXT_SHOWN, Cell, Table, below, facts_table


class Parsed(HTMLParser):
    """The tags, styles and texts of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.styles, self.texts, self.titles = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        told = dict(attrs)
        self.styles.append(told.get("style", ""))
        self.titles += [told["title"]] if "title" in told else []

    def handle_data(self, data):
        self.texts.append(data)


def made(*rows):
    return Table.of("two things", ("name", "state", "more"), rows, lambda row: row)


WELL = ("a", Cell("healthy", tone="good"), "")
ILL = ("b", Cell("lost", "lost for good", tone="bad"), "")


def test_text_has_a_title_and_aligned_columns_and_none_that_are_empty():
    assert made(WELL, ILL).text().splitlines() == [
        "two things",
        "name  state",
        "a     healthy",
        "b     lost",
    ]


def test_html_shows_the_same_with_the_whole_text_where_a_pointer_rests():
    parsed = Parsed(made(WELL, ILL).html())

    assert [text.strip() for text in parsed.texts if text.strip(" ●")] == [
        "two things",
        "name",
        "state",
        "a",
        "healthy",
        "b",
        "lost",
    ]
    assert parsed.titles == ["lost for good"]


def test_only_the_row_of_what_is_ill_is_tinted():
    parsed = Parsed(made(WELL, ILL).html())
    grounds = [s for tag, s in zip(parsed.tags, parsed.styles, strict=True) if tag == "tr"]

    assert [("rgba" in ground) for ground in grounds] == [False, False, True]


def test_no_colour_of_plain_text_or_of_its_ground_is_fixed():
    parsed = Parsed(made(WELL, ILL).html())
    fixed = [style for style in parsed.styles if "color:#" in style or "background:#" in style]

    assert fixed == []
    assert "style" not in parsed.tags
    assert "script" not in parsed.tags


def test_short_texts_are_on_one_line_and_long_ones_may_be_on_several():
    parsed = Parsed(Table.of("t", ("x", "y"), [("short", "long " * 9)], lambda row: row).html())
    cells = [s for tag, s in zip(parsed.tags, parsed.styles, strict=True) if tag == "td"]

    assert ["nowrap" in cell for cell in cells] == [True, False]


def test_every_text_is_escaped():
    html = Table.of("<title>", ("<head>",), [Cell("<b>", '"<i>')], lambda cell: (cell,)).html()

    assert not {"title", "head", "b", "i"} & set(Parsed(html).tags)


def test_control_characters_move_nothing_at_a_prompt():
    text = Table.of("a\nb", ("x",), ["c\r\x1b[2Jd"], lambda cell: (cell,)).text()

    assert text.splitlines() == ["a b", "x", "c [2Jd"]


def test_of_many_rows_the_first_are_shown_and_the_others_counted():
    table = Table.of("many", ("n",), range(ROWS_SHOWN + 1234), lambda number: (str(number),))

    assert len(table.rows) == ROWS_SHOWN
    assert table.text().splitlines()[-1] == "… and 1,234 more"
    assert "… and 1,234 more" in table.html()


def test_a_long_text_is_cut_and_whole_where_a_pointer_rests():
    cell = Cell.long("word " * 40)

    assert len(cell.text) == TEXT_SHOWN
    assert cell.full == "word " * 40
    assert Cell.long("short").full is None
    assert Cell.long(None).text == ""


def test_of_a_thing_only_what_is_known_is_shown():
    assert facts_table("one", {"path": "p", "size": "", "type": Cell("")}).text() == "one\npath  p"


@pytest.mark.parametrize(("line", "is_there"), [("a < b", True), ("", False)])
def test_a_line_below_a_table_is_escaped_and_left_out_where_empty(line, is_there):
    html = below(made(WELL), line)

    assert ("a &lt; b" in html) is is_there


def test_a_table_without_rows_is_its_title():
    assert made().text() == "two things"
    assert "<th" not in made().html()


def test_of_an_error_the_words_of_the_server_are_shown():
    said = "Future failed: Adapter 65442c62-7ad6-48ca-a5a2-211fcbd514d0:train:0 not found"
    error = ValueError(f"Error retrieving result: Error code: 422 - {{'detail': '{said}'}}")

    cell = Cell.error(error)

    assert cell == Cell("Adapter 65442c62..:train:0 not found", full=str(error))
    assert Cell.error(ValueError("short")) == Cell("short")
    assert Cell.error(None) == Cell("")
