"""The pool of daemon threads: as the standard pool, but no thread keeps the process alive."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest

from tinkex.runtime.daemon_pool import DaemonPool

WAIT = 10.0


@pytest.fixture
def hold():
    """Set at the end of the test, so that no job of it goes on."""
    event = threading.Event()
    yield event
    event.set()


def threads_named(prefix):
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_a_pool_makes_no_thread_before_its_first_job():
    DaemonPool(3, "pool-lazy")

    assert threads_named("pool-lazy") == []


def test_a_result_and_an_error_arrive_in_their_futures():
    pool = DaemonPool(1, "pool-results")

    fine = pool.submit(lambda a, b: a - b, 5, b=2)
    failed = pool.submit(lambda: 1 / 0)

    assert fine.result(WAIT) == 3
    assert isinstance(failed.exception(WAIT), ZeroDivisionError)
    pool.shutdown()


def test_an_exit_in_a_job_is_the_jobs_outcome_and_the_thread_goes_on():
    pool = DaemonPool(1, "pool-exit")

    def leave():
        raise SystemExit(3)

    left = pool.submit(leave)

    assert isinstance(left.exception(WAIT), SystemExit)
    assert pool.submit(abs, -1).result(WAIT) == 1
    pool.shutdown()


def test_its_threads_are_daemon_and_named_one_by_one(hold):
    pool = DaemonPool(2, "pool-named")
    both = threading.Barrier(3)

    jobs = [pool.submit(both.wait, WAIT) for _ in range(2)]
    both.wait(WAIT)
    wait(jobs, WAIT)

    assert sorted(thread.name for thread in threads_named("pool-named")) == [
        "pool-named_0",
        "pool-named_1",
    ]
    assert all(thread.daemon for thread in threads_named("pool-named"))
    pool.shutdown()


def test_there_are_never_more_threads_than_asked_for():
    pool = DaemonPool(2, "pool-most")

    jobs = [pool.submit(abs, number) for number in range(50)]
    wait(jobs, WAIT)

    assert 1 <= len(threads_named("pool-most")) <= 2
    pool.shutdown()


def test_jobs_begin_in_the_order_they_were_submitted():
    pool = DaemonPool(1, "pool-order")
    log = []

    jobs = [pool.submit(log.append, number) for number in range(100)]
    wait(jobs, WAIT)

    assert log == list(range(100))
    pool.shutdown()


def test_a_job_that_was_cancelled_before_its_turn_does_not_run(hold):
    pool = DaemonPool(1, "pool-cancel")
    log = []
    pool.submit(hold.wait, WAIT)
    job = pool.submit(log.append, 1)

    assert job.cancel()
    hold.set()
    pool.shutdown()

    assert log == []


def test_a_pool_that_is_shut_down_takes_no_job_and_ends_its_threads():
    pool = DaemonPool(1, "pool-end")
    done = pool.submit(abs, -1)

    pool.shutdown()

    assert done.result() == 1
    assert threads_named("pool-end") == []
    with pytest.raises(RuntimeError, match="pool-end"):
        pool.submit(abs, 1)


def test_shutdown_runs_what_waits_unless_told_to_cancel_it(hold):
    pool = DaemonPool(1, "pool-rest")
    log = []
    pool.submit(hold.wait, WAIT)
    pool.submit(log.append, "ran")

    hold.set()
    pool.shutdown()

    assert log == ["ran"]


def test_shutdown_may_cancel_what_waits(hold):
    pool = DaemonPool(1, "pool-drop")
    begun = threading.Event()
    pool.submit(lambda: (begun.set(), hold.wait(WAIT)))
    assert begun.wait(WAIT)
    dropped = pool.submit(abs, 1)

    pool.shutdown(wait=False, cancel_futures=True)

    with pytest.raises(CancelledError):
        dropped.result(WAIT)


def test_a_join_ends_after_its_timeout_though_a_job_hangs(hold):
    pool = DaemonPool(1, "pool-hang")
    begun = threading.Event()
    pool.submit(lambda: (begun.set(), hold.wait(WAIT)))
    assert begun.wait(WAIT)
    pool.shutdown(wait=False)

    pool.join(0.01)

    assert len(threads_named("pool-hang")) == 1


def test_a_job_may_join_its_own_pool():
    pool = DaemonPool(1, "pool-self")

    job = pool.submit(lambda: (pool.shutdown(wait=False), pool.join(None)))

    assert job.result(WAIT) == (None, None)


def test_a_job_is_refused_where_all_threads_hang_and_no_other_can_start(hold, monkeypatch):
    pool = DaemonPool(2, "pool-refuse")
    begun = threading.Event()
    pool.submit(lambda: (begun.set(), hold.wait(WAIT)))
    assert begun.wait(WAIT)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(abs, -1)

    assert pool.submit(abs, -2).result(WAIT) == 2
    pool.shutdown(wait=False)
