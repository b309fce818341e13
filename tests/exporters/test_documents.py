"""The alerts and the dashboard name only what is exported, and the page names all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tinkex.exporters import prometheus
from tinkex.signals import EVENTS, Cause

DOCS = Path(__file__).parents[2] / "docs"
METRIC = re.compile(r"\btinkex_[a-z_]+")


@pytest.fixture(scope="module")
def series():
    """The names of all series of the exporter."""
    registry = CollectorRegistry()
    with prometheus.export(registry=registry):
        return {sample.name for metric in registry.collect() for sample in metric.samples}


def rules():
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    return json.loads((DOCS / "grafana-dashboard.json").read_text())["panels"]


def queries():
    alerts = [(rule["alert"], rule["expr"]) for rule in rules()]
    shown = [(each["title"], t["expr"]) for each in panels() for t in each["targets"]]
    return alerts + shown


def values(label, query):
    """The values that a query wants of a label."""
    found = re.findall(rf'\b{label}(?:=~|=|!=)"([^"]*)"', query)
    return {value for each in found for value in each.split("|")}


@pytest.mark.parametrize(("title", "query"), queries())
def test_a_query_is_of_series_that_are_exported(title, query, series):
    assert METRIC.findall(query)
    assert set(METRIC.findall(query)) <= series
    assert values("event", query) <= EVENTS.keys()
    assert values("cause", query) <= {cause.value for cause in Cause}


def test_what_must_be_alerted_on_is():
    alerts = " ".join(rule["expr"] for rule in rules())
    wanted = {"exhausted", "missing", "rolled_back", "fenced", "journal_failed", "completed"}

    assert wanted <= values("event", alerts)
    assert {"tinkex_last_sweep_timestamp_seconds", "tinkex_sweep_errors_total"} <= set(
        METRIC.findall(alerts)
    )


def test_each_alert_says_how_bad_it_is_and_the_page_says_what_to_do():
    page = (DOCS / "operations.md").read_text()

    assert {rule["labels"]["severity"] for rule in rules()} == {"critical", "warning"}
    assert [rule["alert"] for rule in rules() if not rule["annotations"]["summary"]] == []
    described = re.findall(r"^\| `(Tinkex\w+)` \| (\w+) ", page, re.MULTILINE)
    assert described == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


def test_the_panels_have_places_of_their_own():
    taken = [
        (x, y)
        for place in (each["gridPos"] for each in panels())
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_the_page_has_a_row_for_each_metric(series):
    page = (DOCS / "operations.md").read_text()
    # `_created` is a series of prometheus_client itself.
    plain = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in series}
    shown = set(re.findall(r"^\| `(tinkex_\w+)", page, re.MULTILINE))

    assert shown == {name for name in plain if name in shown or f"{name}_total" not in shown}
