"""Metrics of Prometheus: names, labels, and what is registered."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from support.events import Sender, told

from tinkex.exporters import prometheus
from tinkex.signals import EVENTS, Cause


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def export(registry):
    """Export to the registry of the test."""
    begun = []

    def begin(**options):
        begun.append(prometheus.export(registry=registry, **options))
        return begun[-1]

    yield begin
    for exporter in begun:
        exporter.close()


def value(registry, name, **labels):
    return registry.get_sample_value(name, labels)


def test_every_event_and_cause_is_there_at_zero_from_the_start(registry, export):
    export()

    detected = [cause for cause in Cause if cause.is_detected]
    assert {value(registry, "tinkex_events_total", event=name) for name in EVENTS} == {0.0}
    assert {value(registry, "tinkex_detections_total", cause=each) for each in detected} == {0.0}
    assert value(registry, "tinkex_recovery_seconds_count") == 0.0
    assert value(registry, "tinkex_detections_total", cause="requested") is None


def test_a_recovery_is_counted_with_its_cause_and_its_duration(registry, export):
    export()
    sender = Sender()

    told(sender, "detected", cause=Cause.ROLLED_BACK)
    told(sender, "completed", duration=0.3)
    told(sender, "completed", duration=5000.0)

    assert value(registry, "tinkex_detections_total", cause="rolled_back") == 1
    assert value(registry, "tinkex_events_total", event="completed") == 2
    assert value(registry, "tinkex_recovery_seconds_count") == 2
    assert value(registry, "tinkex_recovery_seconds_sum") == 5000.3
    bounds = {"0.25": 0, "0.5": 1, "3600.0": 1, "+Inf": 2}
    found = {le: value(registry, "tinkex_recovery_seconds_bucket", le=le) for le in bounds}
    assert found == bounds


def test_sweeps_are_counted_with_their_requests_errors_and_seconds(registry, export):
    export()
    sender = Sender()
    assert value(registry, "tinkex_last_sweep_timestamp_seconds") == 0

    told(sender, "swept", 10, runs=3, requests=4, errors=1, duration=0.2)
    told(sender, "swept", 20, runs=2, requests=2, errors=0, duration=0.3)

    assert value(registry, "tinkex_sweep_seconds_count") == 2
    assert value(registry, "tinkex_sweep_seconds_sum") == 0.5
    assert value(registry, "tinkex_sweep_requests_total") == 6
    assert value(registry, "tinkex_sweep_errors_total") == 1
    assert value(registry, "tinkex_runs") == 2
    assert value(registry, "tinkex_last_sweep_timestamp_seconds") == 1767312020.0


def test_the_gauges_are_of_all_monitors_that_are_not_stopped(registry, export):
    export()
    first, second = Sender(), Sender()

    told(first, "swept", 10, runs=3)
    told(second, "swept", 20, runs=2)
    assert value(registry, "tinkex_runs") == 5
    assert value(registry, "tinkex_last_sweep_timestamp_seconds") == 1767312010.0

    first.is_stopped = True
    assert value(registry, "tinkex_runs") == 2
    assert value(registry, "tinkex_last_sweep_timestamp_seconds") == 1767312020.0

    second.is_stopped = True
    assert value(registry, "tinkex_runs") == 0
    assert value(registry, "tinkex_last_sweep_timestamp_seconds") == 0


def test_labels_name_keys_of_the_metadata_and_the_run_id(registry, export):
    export(labels=("team", "run_id"))
    sender = Sender()

    told(sender, "completed", metadata={"team": "a", "other": 1})
    told(sender, "completed", metadata={"team": None})
    told(sender, "swept")

    counted = "tinkex_events_total"
    own = {"event": "completed", "run_id": "3f0c:train:0"}
    assert value(registry, counted, team="a", **own) == 1
    assert value(registry, counted, team="", **own) == 1
    assert value(registry, counted, event="swept", team="", run_id="") == 1
    assert value(registry, counted, event="missing", team="", run_id="") == 0
    assert value(registry, "tinkex_recovery_seconds_count", team="a", run_id="3f0c:train:0") == 1
    assert value(registry, "tinkex_sweep_seconds_count") == 1


def test_no_run_id_is_exported_unless_it_is_asked_for(registry, export):
    export()

    for name in EVENTS:
        told(Sender(), name, metadata={"team": "a"})

    text = generate_latest(registry).decode()
    assert "3f0c" not in text
    assert "team" not in text


def test_other_labels_on_the_same_registry_are_refused(registry, export):
    export(labels=("team",))

    with pytest.raises(ValueError, match=r"labels \('team',\), not \(\).*close\(\)"):
        export()


def test_after_close_the_registry_is_as_before_and_takes_other_labels(registry, export):
    export(labels=("team",)).close()
    assert list(registry.collect()) == []

    export(labels=("user",))

    assert value(registry, "tinkex_events_total", event="missing", user="") == 0


@pytest.mark.parametrize("label", ["", "a-b", "1a", "__a", "event", "cause", "le", "é"])
def test_a_label_that_cannot_be_used_is_refused(registry, export, label):
    with pytest.raises(ValueError, match="label"):
        export(labels=("team", label))

    assert list(registry.collect()) == []


def test_a_label_that_is_given_twice_is_refused(export):
    with pytest.raises(ValueError, match="'team' is taken"):
        export(labels=("team", "team"))


@pytest.mark.parametrize("labels", ["team", (1,), b"team"])
def test_labels_that_are_no_texts_are_refused(export, labels):
    with pytest.raises(TypeError, match="labels must be a tuple of texts"):
        export(labels=labels)


def test_a_name_that_the_registry_has_already_is_refused_and_nothing_is_begun(registry, export):
    Counter("tinkex_events", "Of another.", registry=registry)

    with pytest.raises(ValueError, match="tinkex_events"):
        export()
    told(Sender(), "missing")

    assert [metric.name for metric in registry.collect()] == ["tinkex_events"]


def test_the_registry_of_the_process_is_the_default():
    from prometheus_client import REGISTRY

    with prometheus.export() as exporter:
        assert exporter.registry is REGISTRY
        assert REGISTRY.get_sample_value("tinkex_runs") == 0.0
    assert REGISTRY.get_sample_value("tinkex_runs") is None


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("prometheus", "prometheus_client", "prometheus"),
        ("opentelemetry", "opentelemetry", "opentelemetry"),
    ],
)
def test_without_its_package_a_module_names_the_extra(module, package, extra):
    code = f"import sys; sys.modules[{package!r}] = None\nimport tinkex.exporters.{module}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert f'pip install "tinkex[{extra}]"' in done.stderr.splitlines()[-1]


def test_tinkex_itself_imports_none_of_it():
    code = (
        "import sys, tinkex; print([n for n in sys.modules if 'prometheus' in n or 'telem' in n])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
