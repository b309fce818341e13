"""Log records: their levels, their values, and one warning for each outage."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from support.events import Sender, event, send, told
from support.world import StatusError

from tinkex.exporters import logging as records
from tinkex.signals import EVENTS


@pytest.fixture
def kept():
    """All records of a logger that exports events."""

    class Keeping(logging.Handler):
        def __init__(self):
            super().__init__()
            self.records = []

        def emit(self, record):
            self.records.append(record)

        @property
        def levels(self):
            return [record.levelname for record in self.records]

    logger = logging.Logger("kept", logging.DEBUG)  # noqa: LOG001 (one that no other test has)
    handler = Keeping()
    logger.addHandler(handler)
    with records.export(logger):
        yield handler


LEVELS = {
    "ERROR": {"exhausted", "missing", "rolled_back", "fenced", "journal_failed"},
    "WARNING": {"detected", "failed", "unprotected", "paused", "poll_error"},
    "INFO": {"started", "checkpoint_selected", "client_created", "completed", "resumed"},
    "DEBUG": {"swept"},
}


@pytest.mark.parametrize("name", [*EVENTS])
def test_each_event_is_one_record_of_its_level_which_json_takes(kept, name):
    told(Sender(), name, metadata={"team": "a"})

    (record,) = kept.records
    assert name in LEVELS[record.levelname]
    assert record.getMessage().startswith(f"{name}:")
    body = json.loads(json.dumps(record.tinkex, allow_nan=False))
    assert body == record.tinkex
    assert (body["event"], body["time"]) == (name, "2026-01-02T00:00:00+00:00")
    assert body["metadata"] == {"team": "a"}
    assert not {"client", "run"} & body.keys()


@pytest.mark.parametrize("name", [*EVENTS])
def test_an_event_has_its_level_wherever_it_is_logged(kept, name, caplog):
    with caplog.at_level(logging.DEBUG, "tinkex.runtime.publisher"):
        told(Sender(), name)

    (line,) = caplog.records
    assert line.levelno == EVENTS[name].level == kept.records[0].levelno


def test_a_record_has_the_values_of_its_event(kept):
    told(Sender(), "failed", attempt=2, error=KeyError("k"), retry_in=5.0)
    told(Sender(), "completed", duration=1.5)

    failed, completed = kept.records
    assert failed.tinkex["error"] == {"type": "KeyError", "message": "'k'"}
    assert failed.getMessage() == "failed: 3f0c:train:0 attempt=2 error=KeyError: 'k' retry_in=5.0"
    assert completed.tinkex["checkpoint"] == "tinker://3f0c:train:0/weights/000100"
    assert completed.tinkex["successor_id"] == "3f0c:train:1"
    assert completed.tinkex["duration"] == 1.5


def test_of_many_runs_the_first_are_named_and_all_are_counted(kept):
    told(Sender(), "paused", runs=tuple(f"run-{number}" for number in range(1000)))

    (record,) = kept.records
    assert record.tinkex["runs"] == 1000
    assert record.tinkex["run_ids"] == [f"run-{number}" for number in range(20)]
    assert len(record.getMessage()) < 200


class Client:
    """An object that shows a key."""

    def __repr__(self):
        return "tml-secret"


def test_no_live_object_and_no_key_of_one_is_in_a_record(kept):
    metadata = {"service": Client(), "deep": [{"it": Client()}], "path": Path("x"), 3: float("inf")}

    told(Sender(), "client_created", client=Client(), metadata=metadata)

    (record,) = kept.records
    assert "tml-secret" not in f"{record.getMessage()} {record.tinkex}"
    assert record.tinkex["metadata"] == {
        "service": "<Client>",
        "deep": [{"it": "<Client>"}],
        "path": "<PosixPath>",
        "3": "inf",
    }


def test_an_outage_is_one_warning_and_its_end_one_info(kept):
    sender = Sender()

    for minute in range(3):
        send(sender, *(event("poll_error", 60 * minute, run_id=f"run-{n}") for n in range(4)))
        told(sender, "swept", 60 * minute + 1, errors=4)
    told(sender, "swept", 200)
    told(sender, "swept", 230)
    told(sender, "poll_error", 240)

    loud = [(r.levelname, r.tinkex["event"]) for r in kept.records if r.levelno > logging.DEBUG]
    assert loud == [("WARNING", "poll_error"), ("INFO", "swept"), ("WARNING", "poll_error")]
    assert len(kept.records) == 4 * 3 + 3 + 2 + 1
    assert [r for r in kept.records if "polls work again" in r.getMessage()] == [kept.records[15]]


def test_a_poll_error_that_comes_late_begins_no_outage(kept):
    sender = Sender()
    told(sender, "poll_error", 10, run_id="a")
    told(sender, "swept", 40)

    told(sender, "poll_error", 10, run_id="b")
    told(sender, "swept", 70)

    assert kept.levels == ["WARNING", "INFO", "DEBUG", "DEBUG"]


def test_a_missing_run_is_told_once(kept):
    sender, about = Sender(), {"run_id": "gone", "error": StatusError(404)}
    for name in ("poll_error", "missing"):
        told(sender, name, 10, **about)
    told(sender, "swept", 40)

    told(sender, "poll_error", 300, **about)
    told(sender, "swept", 310)
    told(sender, "poll_error", 600, run_id="gone", error=StatusError(500))

    assert kept.levels == ["WARNING", "ERROR", "INFO", "DEBUG", "DEBUG", "WARNING"]


def test_each_monitor_has_outages_of_its_own(kept):
    first, second = Sender(), Sender()

    told(first, "poll_error", 10)
    told(second, "swept", 20)
    told(first, "poll_error", 70)
    told(second, "poll_error", 80)

    assert kept.levels == ["WARNING", "DEBUG", "DEBUG", "WARNING"]


def test_a_logger_by_its_name_is_the_same_as_the_logger():
    with records.export("tinkex.events") as exporter:
        assert records.export(logging.getLogger("tinkex.events")) is exporter
        assert exporter.logger.name == "tinkex.events"


def test_what_is_no_logger_is_refused():
    with pytest.raises(TypeError, match="logger must be"):
        records.export(3)
