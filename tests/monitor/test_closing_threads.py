"""With real threads: service clients whose `close` hangs hold nothing up."""

from __future__ import annotations

import gc
import threading
from time import monotonic

import pytest
from support.closing import closed, closing_class, failing
from support.real_threads import wait_until
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import Policy, RecoveryExecutor


@pytest.fixture
def hanging(bench):
    """A class whose instances hang when they are closed; `entered` is set by the first."""
    entered, gate = threading.Event(), bench.gate()

    def close(self, status):
        entered.set()
        gate.wait(3 * PATIENCE)
        self.closed.append(status)

    return closing_class(close=close, entered=entered, gate=gate)


def test_attempts_go_on_while_the_service_clients_of_failed_ones_hang_in_close(bench, hanging):
    policy = Policy(
        enabled=True, poll_interval=0.01, backoff=0.01, max_backoff=0.02, max_attempts=9
    )
    monitor = bench.monitor(policy)
    bench.server.corrupt(RUN)

    monitor.monitor_run(RUN, failing(hanging, 6))
    completed = bench.told.wait_for("completed", RUN)

    assert completed.attempt == 7
    assert closed(hanging) == [[]] * 7


def test_stop_keeps_to_its_timeout_while_a_replaced_generation_hangs_in_close(bench, hanging):
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    run = monitor.monitor_run(RUN, hanging)
    bench.told.wait_for("completed", RUN)
    run.recover().result(PATIENCE)

    began = monotonic()
    monitor.stop(timeout=0.5)
    took = monotonic() - began

    wait_until(hanging.entered)
    assert took < PATIENCE / 2
    assert {thread.name.partition("_")[0] for thread in bench.threads()} == {"tinkex-close"}


def test_stop_waits_for_the_sessions_to_end(bench):
    def close(self, status):
        # It ends some time after all else that stop waits for.
        bench.join(*bench.threads() - {threading.current_thread()})
        gc.collect()
        self.closed.append(status)

    kind = closing_class(close=close)
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    run = monitor.monitor_run(RUN, kind)
    bench.told.wait_for("completed", RUN)
    run.recover().result(PATIENCE)

    monitor.stop()
    at_the_end = closed(kind)

    assert at_the_end == [["success"], []]
    assert bench.threads() == set()


def test_what_comes_after_stop_is_closed_where_it_comes(bench):
    entered, gate = threading.Event(), bench.gate()
    kind = closing_class()

    class Slow(kind):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            entered.set()
            gate.wait(3 * PATIENCE)
            return super().create_training_client_from_state_with_optimizer(path, user_metadata)

    monitor = bench.monitor()
    monitor.monitor_run(RUN, Slow).recover()
    wait_until(entered)

    monitor.stop(timeout=0.1)
    gate.set()
    bench.join(*bench.threads())

    assert closed(kind) == [["errored"]]


def test_an_executor_that_is_shut_down_leaves_no_thread(bench):
    kind = closing_class()
    executor = RecoveryExecutor(rest_module=bench.server)
    policy = Policy(enabled=True, backoff=0.01, max_backoff=0.02)

    executor.recover(RUN, failing(kind, 1), policy).result(PATIENCE)
    executor.shutdown()
    bench.join(*bench.threads())

    assert closed(kind) == [["errored"], []]
