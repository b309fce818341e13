"""Values of the API: what is read from JSON, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from support import DATA

from tinkex.errors import ApiResponseError
from tinkex.types import Checkpoint, TinkerPath, TrainingRun, TrainingRunPage, WeightsInfo

RUN = "3f0c1e2d:train:0"
PATH = f"tinker://{RUN}/weights/000050"


class Dumped:
    """Stands for an object of the official SDK."""

    def __init__(self, **fields):
        self.fields = fields

    def model_dump(self):
        return self.fields


def sample(name):
    return json.loads((DATA / name).read_text())


def samples(ending):
    found = sorted(path.name for path in DATA.glob(f"*{ending}"))
    assert found
    return found


@pytest.mark.parametrize("name", samples("training_run_get.json") + samples("_get_corrupted.json"))
def test_every_sample_of_a_run_is_read(name):
    data = sample(name)

    run = TrainingRun.from_json(data)

    assert run.training_run_id == data["training_run_id"]
    assert run.base_model == data["base_model"]
    assert run.model_owner == data["model_owner"]
    assert run.is_lora is data["is_lora"]
    assert run.corrupted is name.endswith("_corrupted.json")
    assert run.lora_rank == data["lora_rank"]
    assert run.last_request_time.utcoffset() == timedelta(0)
    assert run.user_metadata == data["user_metadata"]
    if data["last_checkpoint"] is None:
        assert run.last_checkpoint is None
    else:
        assert run.last_checkpoint.tinker_path == data["last_checkpoint"]["tinker_path"]
        assert run.last_checkpoint.time.tzinfo is not None


@pytest.mark.parametrize("name", samples("checkpoints.json"))
def test_every_sample_of_checkpoints_is_read(name):
    rows = sample(name)["checkpoints"]

    for row in rows:
        checkpoint = Checkpoint.from_json(row)
        assert checkpoint.tinker_path == row["tinker_path"]
        assert checkpoint.checkpoint_id == row["checkpoint_id"]
        assert checkpoint.checkpoint_type == "training"
        assert checkpoint.time.utcoffset() == timedelta(0)
        assert checkpoint.size_bytes == row.get("size_bytes")
        assert checkpoint.public is row.get("public")
        assert checkpoint.expires_at is None
        assert str(TinkerPath.parse(checkpoint.tinker_path)) == checkpoint.tinker_path


@pytest.mark.parametrize("name", [*samples("runs_list.json"), *samples("_one_corrupted.json")])
def test_every_sample_of_a_listing_is_read(name):
    data = sample(name)

    page = TrainingRunPage.from_json(data)

    assert page.rows == data["training_runs"]
    assert page.total_count == data["cursor"]["total_count"]
    assert [run.training_run_id for run in page.training_runs] == [
        row["training_run_id"] for row in page.rows
    ]
    assert sum(run.corrupted for run in page.training_runs) == name.count("one_corrupted")


@pytest.mark.parametrize("name", samples("weights_info.json"))
def test_every_sample_of_weights_info_is_read(name):
    data = sample(name)

    info = WeightsInfo.from_json(data)

    assert (info.base_model, info.is_lora, info.lora_rank) == (data["base_model"], True, 8)
    assert info.train_mlp is None


def test_a_run_needs_no_more_than_its_id_and_may_have_unknown_fields():
    run = TrainingRun.from_json({"training_run_id": RUN, "mood": "fine"})

    assert run == TrainingRun(training_run_id=RUN)
    assert run.corrupted is False
    assert hash(run) == hash(TrainingRun(training_run_id=RUN))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("training_run_id", None, "text that is not empty"),
        ("training_run_id", "", "text that is not empty"),
        ("training_run_id", 7, "text"),
        ("base_model", ["m"], "text"),
        ("model_owner", {}, "text"),
        ("is_lora", 1, "true or false"),
        ("corrupted", "true", "true or false"),
        ("corrupted", 1, "true or false"),
        ("corrupted", None, "true or false"),
        ("lora_rank", 8.0, "a whole number"),
        ("lora_rank", True, "a whole number"),
        ("last_request_time", "yesterday", "a time in ISO 8601"),
        ("last_request_time", 1700000000, "a time in ISO 8601"),
        ("user_metadata", "x", "an object"),
    ],
)
def test_a_wrong_type_in_a_run_is_named_with_what_was_given(field, value, allowed):
    data = {"training_run_id": RUN, field: value}

    with pytest.raises(ApiResponseError) as caught:
        TrainingRun.from_json(data)

    text = str(caught.value)
    assert f"TrainingRun field {field!r} should be {allowed}" in text
    assert ("missing or null" if value is None else repr(value)) in text
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tinker_path", None),
        ("tinker_path", 1),
        ("checkpoint_id", 1),
        ("checkpoint_type", 1),
        ("time", "never"),
        ("size_bytes", "12"),
        ("public", "no"),
        ("user_metadata", []),
        ("expires_at", 5),
    ],
)
def test_a_wrong_type_in_a_checkpoint_is_named_also_inside_a_run(field, value):
    data = {"tinker_path": PATH, field: value}

    with pytest.raises(ApiResponseError, match=f"Checkpoint field '{field}'"):
        Checkpoint.from_json(data)
    with pytest.raises(ApiResponseError, match=f"Checkpoint field '{field}'"):
        TrainingRun.from_json({"training_run_id": RUN, "last_checkpoint": data})


@pytest.mark.parametrize("value", [None, [], "run", 3, type("Odd", (), {"model_dump": 1})()])
def test_what_is_no_object_is_refused(value):
    for kind in (TrainingRun, Checkpoint, TrainingRunPage, WeightsInfo):
        with pytest.raises(ApiResponseError, match="should be a JSON object"):
            kind.from_json(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T13:36:05.5Z", datetime(2026, 11, 23, 13, 36, 5, 500000, UTC)),
        ("2026-11-23T13:36:05", datetime(2026, 11, 23, 13, 36, 5, 0, UTC)),
        (
            "2026-11-23T13:36:05+02:00",
            datetime(2026, 11, 23, 13, 36, 5, 0, timezone(timedelta(hours=2))),
        ),
        (datetime(2026, 11, 23), datetime(2026, 11, 23, tzinfo=UTC)),
    ],
)
def test_times_are_aware(text, expected):
    run = TrainingRun.from_json({"training_run_id": RUN, "last_request_time": text})

    assert run.last_request_time == expected
    assert run.last_request_time.utcoffset() is not None


def test_a_checkpoint_keeps_what_the_server_says():
    checkpoint = Checkpoint.from_json(
        {"tinker_path": PATH, "checkpoint_id": "weights/000050", "checkpoint_type": "external"}
    )

    assert checkpoint.checkpoint_id == "weights/000050"
    assert checkpoint.checkpoint_type == "external"


def test_a_checkpoint_with_a_path_only_has_its_name_and_type_from_there():
    assert Checkpoint.from_json({"tinker_path": PATH}) == Checkpoint.from_path(PATH)

    checkpoint = Checkpoint.from_path(TinkerPath.parse(PATH))

    assert (checkpoint.checkpoint_id, checkpoint.checkpoint_type) == ("000050", "training")
    assert checkpoint.time is None


def test_a_path_of_an_unknown_kind_is_kept_as_it_is():
    checkpoint = Checkpoint.from_json({"tinker_path": "tinker://r/external_weights/x"})

    assert checkpoint.tinker_path == "tinker://r/external_weights/x"
    assert (checkpoint.checkpoint_id, checkpoint.checkpoint_type) == (None, None)


def test_metadata_is_a_copy():
    given = {"step": "50"}

    checkpoint = Checkpoint.from_json({"tinker_path": PATH, "user_metadata": given})
    given["step"] = "51"

    assert checkpoint.user_metadata == {"step": "50"}
    assert isinstance(hash(checkpoint), int)


def test_objects_of_the_official_sdk_are_read_too():
    checkpoint = Dumped(tinker_path=PATH, time=datetime(2026, 1, 1, tzinfo=UTC))

    run = TrainingRun.from_json(Dumped(training_run_id=RUN, last_checkpoint=checkpoint))

    assert run.last_checkpoint.tinker_path == PATH
    assert run.last_checkpoint.time == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_official_sdks_own_classes_are_read():
    from tinker import types as sdk

    theirs = sdk.TrainingRun.model_validate(sample("tuft_training_run_get_corrupted.json"))

    assert TrainingRun.from_json(theirs).corrupted is True
    assert (
        TrainingRun.from_json(theirs).last_checkpoint
        == TrainingRun.from_json(sample("tuft_training_run_get_corrupted.json")).last_checkpoint
    )


def test_values_are_given_back_as_they_are():
    run = TrainingRun(training_run_id=RUN)
    checkpoint = Checkpoint.from_path(PATH)

    assert TrainingRun.from_json(run) is run
    assert Checkpoint.from_json(checkpoint) is checkpoint


def test_values_are_frozen_and_pickle():
    run = TrainingRun.from_json(sample("tuft_training_run_get.json"))
    page = TrainingRunPage.from_json(sample("tuft_training_runs_list.json"))

    with pytest.raises(dataclasses.FrozenInstanceError):
        run.corrupted = True
    assert pickle.loads(pickle.dumps(run)) == run
    assert pickle.loads(pickle.dumps(page)).training_runs == page.training_runs
    assert pickle.loads(pickle.dumps(TinkerPath.parse(PATH))) == TinkerPath.parse(PATH)


def test_a_page_reads_its_rows_at_the_first_access_only():
    rows = [{"training_run_id": "a"}, {"training_run_id": 5}]
    page = TrainingRunPage.from_json({"training_runs": rows})

    assert page.rows == rows
    assert page.total_count is None
    with pytest.raises(ApiResponseError, match="training_run_id"):
        _ = page.training_runs

    good = TrainingRunPage(rows=rows[:1], total_count=1)
    assert good.training_runs[0] is good.training_runs[0]
    assert TrainingRunPage(rows=[]).training_runs == ()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"training_runs": None},
        {"training_runs": {}},
        {"training_runs": [1]},
        {"training_runs": [], "cursor": 3},
        {"training_runs": [], "cursor": {"total_count": "2"}},
    ],
)
def test_a_page_of_another_shape_is_refused(data):
    with pytest.raises(ApiResponseError):
        TrainingRunPage.from_json(data)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (PATH, "training", "000050"),
        ("tinker://model_1/sampler_weights/s", "sampler", "s"),
        ("tinker://r:train:0/weights/a/b.c", "training", "a/b.c"),
    ],
)
def test_a_tinker_path_is_taken_apart_and_put_together(text, kind, name):
    path = TinkerPath.parse(text)

    assert (path.checkpoint_type, path.name) == (kind, name)
    assert path.run_id == text.split("/")[2]
    assert str(path) == text
    assert TinkerPath.parse(str(path)) == path
    assert len({path, TinkerPath.parse(text)}) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begin with"),
        ("rubbish", "begin with"),
        ("TINKER://r/weights/n", "begin with"),
        (" tinker://r/weights/n", "begin with"),
        ("tinker://r", "missing"),
        ("tinker://r/weights", "missing"),
        ("tinker://r/weights/", "empty"),
        ("tinker:///weights/n", "empty"),
        ("tinker://r/weights/a//b", "empty"),
        ("tinker://r/weights/../n", r"'\.\.'"),
        ("tinker://../weights/n", r"'\.\.'"),
        ("tinker://r/weights/.", r"'\.'"),
        ("tinker://r/weights/a b", "space"),
        ("tinker://r/weights/a\n", "space"),
        ("tinker://r/weights/a\u00a0", "space"),
        ("tinker://r/weights/a\x00", "control"),
        ("tinker://r/external_weights/n", "not one of weights, sampler_weights"),
        (None, "missing or null"),
        (5, "int 5"),
    ],
)
def test_what_is_no_tinker_path_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        TinkerPath.parse(text)

    assert "tinker://RUN_ID/weights/NAME" in str(caught.value)
    if isinstance(text, str):
        with pytest.raises(ValueError, match="tinker path"):
            Checkpoint.from_path(text)
