"""A page that is read part by part: the same rows as a page that is parsed as a whole."""

from __future__ import annotations

import json
from contextlib import suppress
from random import Random

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


# Rows that are passed over


class Memory:
    """Knows the rows that it was told of, by their fingerprints."""

    def __init__(self):
        self.rows = {}
        self.passed_over = []

    def is_known(self, run_id, fingerprint):
        found = self.rows.get(run_id, (None, None))[0] == fingerprint
        if found:
            self.passed_over.append(run_id)
        return found

    def read(self, text, size=3):
        """Read a page; return its rows, with those passed over as they are remembered."""
        self.passed_over.clear()
        page = reader(text)
        parsed = []
        for part in page.parts(size, self.is_known):
            for row, fingerprint in part:
                parsed.append(row)
                if fingerprint is not None:
                    self.rows[row["training_run_id"]] = fingerprint, row
        assert page.count == len(parsed) + len(self.passed_over)
        return [*parsed, *(self.rows[run_id][1] for run_id in self.passed_over)]


#: What a row may hold that looks like something else.
TRICKS = [
    '{"training_run_id":"r1"',
    ',{"training_run_id":"r2","corrupted":true},',
    '"last_request_time":"now"',
    '\\"last_request_time\\":\\"',
    "]}",
    '"',
    "\\",
    "last_request_time",
    "ü\u2028\ud800",
    "",
]


def any_value(random, depth=0):
    kind = random.randrange(8)
    if kind < 4 or depth > 2:
        return random.choice([*TRICKS, None, True, 5, 1.5, "2026-01-01T00:00:00Z"])
    if kind < 6:
        return [any_value(random, depth + 1) for _ in range(random.randrange(3))]
    names = ["training_run_id", "last_request_time", "corrupted", *TRICKS[:4]]
    return {random.choice(names): any_value(random, depth + 1) for _ in range(random.randrange(3))}


def any_row(random, run_id):
    fields = [
        ("last_request_time", random.choice(["a", "b", "\\", "\t", None, "2026-01-01T00:00:00Z"])),
        ("corrupted", False),
        ("user_metadata", any_value(random)),
        ("x", any_value(random)),
    ]
    chosen = random.sample(fields, random.randrange(len(fields) + 1))
    named = [("training_run_id", run_id), *chosen]
    if random.random() < 0.1:
        random.shuffle(named)
    return dict(named)


def without_moving(rows):
    return sorted(
        json.dumps({k: v for k, v in row.items() if k != "last_request_time"}, sort_keys=True)
        for row in rows
    )


@pytest.mark.parametrize("written", [{"separators": (",", ":")}, {}, {"indent": 1}], ids=repr)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_a_row_that_is_passed_over_says_what_it_said_before(written, ascii_only, seed):
    random = Random(seed)
    memory = Memory()
    rows = [any_row(random, f"r{number}") for number in range(9)]
    passed_over = 0
    for _ in range(12):
        changed = random.sample(range(len(rows)), 3)
        for number in changed:
            rows[number] = any_row(random, f"r{number}")
        for row in rows:
            if isinstance(row.get("last_request_time"), str):
                row["last_request_time"] = random.choice(["a", "b", "c", "2026-01-01T00:00:00Z"])
        shown = random.sample(rows, len(rows)) if random.random() < 0.5 else rows
        text = json.dumps({"training_runs": shown}, ensure_ascii=ascii_only, **written)

        found = memory.read(text)

        passed_over += len(memory.passed_over)
        assert without_moving(found) == without_moving(rows)
    assert passed_over > 0


def page_of(*rows):
    return f'{{"training_runs":[{",".join(rows)}]}}'


A = '{"training_run_id":"a","last_request_time":"1","corrupted":false}'
B = '{"training_run_id":"b","last_request_time":"1","corrupted":false}'


@pytest.mark.parametrize(
    "told",
    [
        A.replace('"1"', '"1\\""'),
        A.replace('"1"', '"\\u0031"'),
        A.replace('"1"', "null"),
        A.replace('"1"', "1"),
        A.replace("false", "true"),
        A.replace('"a"', '"A"'),
        A.replace("last_request_time", "first_request_time"),
        A.replace("}", ',"last_request_time":"1"}'),
        A.replace("false", "false "),
        A.replace("false}", "false,}"),
        A.replace('"1"', '"1\n"'),
        A.replace("}", ',"last_request\\u005ftime":"1"}'),
    ],
)
def test_a_row_that_is_written_otherwise_is_parsed(told):
    memory = Memory()
    memory.read(page_of(B, A, B))
    memory.read(page_of(B, A.replace('"1"', '"2"'), B))
    assert memory.passed_over == ["a"]
    memory.passed_over.clear()

    with suppress(ApiResponseError):
        memory.read(page_of(B, told, B))

    assert "a" not in memory.passed_over


@pytest.mark.parametrize("end", ["", "]", "}", ",]}", "]}]", ", 5 6]}", " {}]}"])
def test_a_page_of_known_rows_with_an_odd_end_is_an_error(end):
    memory = Memory()
    memory.read(page_of(B, A, B))

    with pytest.raises(ApiResponseError):
        memory.read('{"training_runs":[' + ",".join([B, A, B]) + end)


def test_a_last_row_is_parsed_where_no_comma_comes_before_the_next_one():
    memory = Memory()
    memory.read(page_of(B, A))

    with pytest.raises(ApiResponseError):
        memory.read('{"training_runs":[' + B + "," + A + B + "]}")


@pytest.mark.parametrize(
    "row",
    [
        A.replace('"last_request_time":"1"', '"x":{"last_request_time":"1"}'),
        A.replace('"last_request_time"', '"x":{"last_request_time":"2"},"last_request_time"'),
        A.replace("}", ',"last_request_time":"1"}'),
        A.replace("}", ',"last_request\\u005ftime":"1"}'),
        '{"training_run_id":"a","x":{"last_request_time":"1"},"last_request\\u005ftime":"1"}',
        '{"training_run_id":"a","x":{"last_request_time":"1"},"y":"\\u00e9"}',
        A.replace("false", 'false,"x":"\\"last_request_time"'),
        '{"corrupted":false,"last_request_time":"1","training_run_id":"a"}',
        A.replace("{", '{"x":"' + 64 * "x" + '",'),
    ],
)
def test_a_row_of_which_it_cannot_be_certain_is_always_parsed(row):
    memory = Memory()
    for _ in range(3):
        memory.read(page_of(B, row, B))

        assert "a" not in memory.passed_over


@pytest.mark.parametrize(
    "field",
    [
        r'"x":{"tinkex_data":"{\"epoch\":1}"}',
        r'"x":"\"last_request_time\":\"1\""',
        r'"x":"\u00e9"',
        r'"x":{"last_request_time":"1"},"y":"\u00e9"',
    ],
)
def test_what_else_a_row_holds_does_not_keep_it_from_being_passed_over(field):
    memory = Memory()
    for number in range(3):
        row = A.replace("false", f"false,{field}").replace('"1"', f'"{number}"', 1)
        memory.read(page_of(B, row, B))

    assert "a" in memory.passed_over


@pytest.mark.timeout(60)
@pytest.mark.parametrize("first", [A, A.replace('"a"', '"\\u0061"')])
def test_rows_that_look_unlike_the_first_one_take_no_longer_the_more_there_are(first):
    memory = Memory()

    found = memory.read(page_of(first, *['{"b":1,"training_run_id":"x"}'] * 200_000), size=1000)

    assert len(found) == 200_001


def test_a_huge_row_is_always_parsed():
    memory, row = Memory(), A.replace("false", f'false,"x":"{20_000 * "x"}"')
    for _ in range(3):
        memory.read(page_of(B, row, B))

        assert memory.passed_over == []


class Watched(str):
    """A text that counts how many of its characters are looked through."""

    looked = 0

    def find(self, what, start, end=None):
        found = super().find(what, start, end)
        ends = len(self) if end is None else min(end, len(self))
        self.looked += (ends if found < 0 else found) - start
        return found


class Body(bytes):
    def decode(self, *args):
        self.text = Watched(super().decode(*args))
        return self.text


LONG = f'"x":"{100 * "x"}"'


@pytest.mark.parametrize(
    "rows",
    [
        [f'{{"n":{number},"training_run_id":"r",{LONG}}}' for number in range(1000)],
        1000 * ['{"training_run_id":"\\u00fc",' + LONG + "}"],
        [A, *1000 * ["{" + LONG + "}"], A],
        [A, *1000 * ["1"]],
        1000 * ["{" + LONG + ',"training_run_id":"r"}'],
    ],
    ids=["unlike", "escaped", "first and last", "numbers", "deep"],
)
def test_a_page_is_not_looked_through_for_each_of_its_rows(rows):
    body = Body(page_of(*rows).encode())

    page = PageReader(body, lambda: ApiResponseError("no page"))
    found = [row for part in page.parts(100) for row, _ in part]

    assert len(found) == len(rows)
    assert body.text.looked < 8 * len(body)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_page_in_another_encoding_is_read_as_any_other_answer_is(encoding):
    text = json.dumps({"training_runs": ROWS, "cursor": {"total_count": 7}})

    assert rows_of(text.encode(encoding)) == (ROWS, 7)


def test_a_moving_field_is_the_rows_own_whatever_it_holds():
    memory = Memory()
    inner, own = '{"last_request_time":"?"}', '"last_request_time":"?"'
    row = f'{{"training_run_id":"a","note":"\\u00fc","x":{inner},{own}}}'
    memory.read(page_of(B, row, B))

    memory.read(page_of(B, row.replace(inner, inner.replace("?", "!")), B))

    assert "a" not in memory.passed_over
