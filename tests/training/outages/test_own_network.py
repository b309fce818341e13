"""Where our own network is gone, requests wait until it is back, and nothing is restored."""

from __future__ import annotations

import errno
import socket

import pytest
from support.outages import Site, Weights, heard, saved_and_trained, train
from support.recorder import PATIENCE
from support.world import weights

from tinkex.errors import ApiConnectionError
from tinkex.training.outages import noticing

BEGINS = "requests of its runs wait"

UNREACHABLE = OSError(errno.ENETUNREACH, "Network is unreachable")


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        UNREACHABLE,
        OSError(errno.EHOSTUNREACH, "No route to host"),
        ApiConnectionError("GET https://x/api: gaierror: [Errno -2] Name or service not known"),
        ApiConnectionError("GET https://x/api: OSError: [Errno 101] Network is unreachable"),
    ],
    ids=repr,
)
def test_polls_that_meet_no_network_hold_requests_and_prove_nothing(bench, listener, error):
    site = Site(bench, listener, Weights(), poll_interval=0.05)
    site.rest.error = error

    with next(site.run.segments(max_wait=PATIENCE)) as segment:
        saved_and_trained(segment)
        unanswered = segment.client.forward([0])
        with heard(BEGINS) as noticed:
            site.rest.is_up = False
            assert noticed.wait(PATIENCE)
        site.client.updates = 4  # a look would take it for rolled back
        with heard("network is back"):
            site.rest.is_up = True
            train(segment, 1)
        unanswered.result(PATIENCE)
        segment.save_state("end", step=6)

    assert site.service.created == []
    assert site.run.state == "healthy"


@pytest.mark.parametrize("updates", [5, 4], ids=["nothing lost", "rolled back"])
def test_a_connection_that_ended_before_the_way_was_lost_is_looked_into(
    bench, listener, monkeypatch, updates
):
    """As where a machine boots: it ends its connections, and then no way leads to it."""
    site, real, is_lost = Site(bench, listener, Weights()), noticing.connected, [False]
    monkeypatch.setattr(
        noticing, "connected", lambda url: (None, False) if is_lost[0] else real(url)
    )
    segments = site.run.segments(max_wait=PATIENCE)

    with next(segments) as segment:
        saved_and_trained(segment)
        listener.wait_for_connections()
        with heard(BEGINS) as noticed:
            is_lost[0] = True
            listener.cut()
            assert noticed.wait(PATIENCE)
        site.client.updates = updates
        is_lost[0] = False
        train(segment, 1)
        segment.save_state("end", step=6)

    if updates == 4:
        assert next(segments).start_step == 4
    assert [path for path, _ in site.service.created] == ([] if updates == 5 else [weights("at-4")])


def test_a_server_that_is_refused_after_the_network_is_back_was_down(bench, listener):
    site = Site(bench, listener, Weights(), poll_interval=0.05)
    site.rest.error = UNREACHABLE
    segments = site.run.segments(max_wait=PATIENCE)

    with next(segments) as segment:
        saved_and_trained(segment)
        with heard(BEGINS) as noticed:
            site.rest.is_up = False
            assert noticed.wait(PATIENCE)
        listener.stop()
        site.client.updates = 4
        site.come_back()
        train(segment, 1)

    assert next(segments).start_step == 4
    assert site.run.lineage[0].cause == "rolled_back"
