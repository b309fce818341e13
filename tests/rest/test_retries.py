"""What the REST client tries again, how often, and how long it waits in between."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.http_servers import PATH, RUN, RUN_JSON, as_json, config_of, failing, failure

from tinkex import rest
from tinkex.errors import (
    ApiAuthenticationError,
    ApiBillingError,
    ApiConnectionError,
    ApiNotFoundError,
    ApiPermissionError,
    ApiRateLimitError,
    ApiServerError,
    ApiStatusError,
)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(stub, client, waits, status):
    stub.will(failing(status), failing(status), as_json(RUN_JSON))

    assert client.get_training_run(config_of(stub), RUN).training_run_id == RUN
    assert len(stub.requests) == 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 0.75


def test_a_post_is_tried_again_with_its_body(stub, client):
    stub.will(failing(503), as_json({"base_model": "m"}))

    client.get_weights_info(config_of(stub), PATH)

    assert [json.loads(body) for *_, body in stub.requests] == [{"tinker_path": PATH}] * 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiStatusError),
        (401, ApiAuthenticationError),
        (402, ApiBillingError),
        (403, ApiPermissionError),
        (404, ApiNotFoundError),
        (409, ApiStatusError),
        (422, ApiStatusError),
    ],
)
def test_what_will_not_pass_is_tried_once(stub, client, waits, status, kind):
    stub.will(failing(status))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN))

    assert type(error) is kind
    assert (error.status, error.detail, error.retry_after) == (status, "words", None)
    assert f"GET {stub.url}/api/v1/training_runs/3f0c1e2d%3Atrain%3A0" in str(error)
    assert (len(stub.requests), waits) == (1, [])


def test_three_tries_are_all(stub, client, waits):
    stub.will(failing(429))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiRateLimitError)

    assert (error.status, len(stub.requests), len(waits)) == (429, 3, 2)


def test_the_wait_that_the_server_asks_for_is_kept(stub, client, waits):
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=7), usegmt=True)
    stub.will(
        failing(503, Retry_After="3"),
        lambda handler: answer_with_date(handler, date=format_datetime(now), retry_after=later),
        as_json(RUN_JSON),
    )

    client.get_training_run(config_of(stub), RUN)

    assert waits == [3.0, 7.0]


def answer_with_date(handler, *, date, retry_after):
    handler.send_response_only(429)
    if date is not None:
        handler.send_header("Date", date)
    handler.send_header("Retry-After", retry_after)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_a_date_without_the_servers_own_is_held_against_our_clock(stub, client):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1))
    stub.will(lambda handler: answer_with_date(handler, date=None, retry_after=later))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiRateLimitError)

    assert 3500 < error.retry_after <= 3600


def test_a_wait_that_does_not_fit_is_not_begun(stub, client, waits):
    stub.will(failing(503, Retry_After="60"))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiServerError)

    assert error.retry_after == 60.0
    assert (len(stub.requests), waits) == (1, [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2.5", 2.5),
        ("9" * 400, float("inf")),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 23 Nov 2015 12:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2015 12:00:00 -0000", 0.0),
    ],
)
def test_every_way_to_say_retry_after_is_understood_or_left(stub, client, text, seconds):
    stub.will(failing(429, Retry_After=text))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiRateLimitError)

    assert error.retry_after == seconds


def test_the_waits_end_where_the_bound_ends(stub, client, waits):
    stub.will(failing(500))

    failure(lambda: client.get_training_run(config_of(stub), RUN, timeout=0.2), ApiServerError)

    assert (len(stub.requests), waits) == (1, [])


def test_a_wait_that_was_woken_ends_the_call(stub):
    stub.will(failing(500))
    client = rest.RestClient(wait=lambda seconds: True)

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiConnectionError)

    assert "closed" in str(error)
    assert len(stub.requests) == 1
    client.close()


def test_an_error_while_another_is_handled_holds_only_the_callers(stub, client):
    stub.will(failing(404))
    own = KeyError("own")

    try:
        raise own
    except KeyError:
        with pytest.raises(ApiNotFoundError) as caught:
            client.get_training_run(config_of(stub), RUN)

    assert caught.value.__context__ is own
    assert own.__context__ is None
