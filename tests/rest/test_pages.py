"""A page that is read part by part: the same rows as a page that is parsed as a whole."""

from __future__ import annotations

import json

import pytest

from tinkex.errors import ApiResponseError
from tinkex.rest.pages import PageReader
from tinkex.types import TrainingRunPage

ROWS = [
    {"training_run_id": f"r{i}", "corrupted": i % 2 == 0, "n": [i, {"x": "],}"}]} for i in range(7)
]


def reader(text):
    body = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return PageReader(body, lambda: ApiResponseError("no page"))


def rows_of(text, size=3):
    page = reader(text)
    return [row for part in page.parts(size) for row, _ in part], page.total_count


@pytest.mark.parametrize("indent", [None, 0, 3])
@pytest.mark.parametrize("names", [["training_runs", "cursor"], ["cursor", "x", "training_runs"]])
@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_it_has_the_rows_and_the_total_however_it_is_written(indent, names, count):
    whole = {
        "training_runs": ROWS[:count],
        "cursor": {"offset": 0, "limit": 9, "total_count": 41},
        "x": ["training_runs", {"training_runs": [1]}, 'a"]}', None, 1.5e3],
    }
    text = json.dumps({name: whole[name] for name in names}, indent=indent)

    found, total = rows_of(f"\n {text} \r\n")

    assert found == TrainingRunPage.from_json(json.loads(text)).rows
    assert total == 41


def test_rows_come_in_parts_of_the_size_asked_for():
    page = reader(json.dumps({"training_runs": ROWS}))

    assert [len(part) for part in page.parts(3)] == [3, 3, 1]
    assert page.total_count is None


def test_a_row_that_is_none_is_a_row_without_an_id():
    found, _ = rows_of(json.dumps({"training_runs": [None, *ROWS, 5]}))

    assert found == [None, *ROWS, 5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "null",
        "{}",
        '{"training_runs": null}',
        '{"training_runs": {}}',
        '{"training_runs": [1, "a", null]}',
        '{"training_runs": [{"a": 1} {"b": 2}]}',
        '{"training_runs": [{"a": 1},]}',
        '{"training_runs": [{"a": 1}]',
        '{"training_runs": [{"a": 1}]} {}',
        '{"training_runs": [{"a": 1}], }',
        '{"training_runs" [{"a": 1}]}',
        '{1: 2, "training_runs": [{"a": 1}]}',
        '{"training_runs": [{"a": tru}]}',
        '{"training_runs": [{"a": 1}], "cursor": {"total_count": "many"}}',
        '{"training_runs": [{"a": 1}], "cursor": 5}',
        b'{"training_runs": [{"a": "\xff"}]}',
        '{"training_runs": [' + "[" * 100_000,
    ],
    ids=lambda text: repr(text[:40]),
)
def test_what_is_no_page_is_an_error(text):
    with pytest.raises(ApiResponseError):
        rows_of(text)


def test_a_page_cut_at_any_place_is_an_error():
    text = json.dumps({"cursor": {"total_count": 7}, "training_runs": ROWS})

    for end in range(len(text)):
        with pytest.raises(ApiResponseError):
            rows_of(text[:end])
