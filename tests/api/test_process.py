"""What tinkex does to the interpreter it runs in: at import, and when that ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def in_a_new_interpreter(program, *arguments, timeout=30.0):
    return subprocess.run(
        [sys.executable, *arguments, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_an_interpreter_with_a_hung_attempt_and_a_hung_poll_exits_by_itself():
    program = """
        import threading
        from tinkex import Monitor, Policy
        from tinkex.testing import FakeServiceClient

        hung = threading.Semaphore(0)

        class Rest:
            def get_training_run(self, config, run_id):
                hung.release()
                threading.Event().wait()

        class Service(FakeServiceClient):
            def create_training_client_from_state_with_optimizer(self, path):
                hung.release()
                threading.Event().wait()

        policy = Policy(
            enabled=True, poll_interval=0.01, checkpoint_strategy="tinker://a/weights/b"
        )
        monitor = Monitor(policy, rest_module=Rest()).start()
        monitor.monitor_run("polled", Service())
        monitor.monitor_run("recovered", Service()).recover()
        for _ in range(2):
            assert hung.acquire(timeout=10)
        print("the end")
    """

    ended = in_a_new_interpreter(program)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "the end\n", "")


def test_an_interpreter_stopped_by_its_user_ends_with_a_monitor_under_way():
    program = """
        from tinkex import Monitor, Policy
        from tinkex.testing import FakeRest, FakeServiceClient

        rest = FakeRest()
        rest.set_run("run")
        with Monitor(Policy(enabled=True, poll_interval=0.001), rest_module=rest) as monitor:
            monitor.monitor_run("run", FakeServiceClient())
            monitor.poll_now()
            raise KeyboardInterrupt
    """

    ended = in_a_new_interpreter(program)

    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")


def test_an_interpreter_ends_though_a_loop_that_was_left_holds_a_monitor(tmp_path):
    program = f"""
        from tinkex import Monitor, Policy
        from tinkex.testing import FakeRest, FakeServiceClient

        def loop():
            journal = {str(tmp_path / "tinkex.db")!r}
            with Monitor(Policy(enabled=True), rest_module=FakeRest(), journal=journal) as monitor:
                monitor.monitor_run("3f0c:train:0", FakeServiceClient())
                yield

        left = loop()
        next(left)
    """
    ended = in_a_new_interpreter(program)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_importing_starts_no_thread_reads_no_environment_and_writes_nothing():
    program = """
        import os, sys, threading
        import requests, tenacity, blinker, urllib3, http.client, email, json, ssl, heapq

        class Poisoned(dict):
            def refuse(self, *args):
                raise AssertionError("the environment was read")
            __getitem__ = __contains__ = __iter__ = get = keys = items = values = copy = refuse

        seen = []

        def watch(event, args):
            if event == "open" and isinstance(args[0], str):
                is_code = args[0].endswith((".py", ".pyc", ".so"))
                if not is_code or args[1] not in ("r", "rb"):
                    seen.append((event, args[0], args[1]))
            elif event.startswith(("socket.", "subprocess.", "os.system", "os.mkdir", "_thread")):
                seen.append((event, args))

        environ, os.environ = os.environ, Poisoned()
        os.getenv = os.environ.refuse
        sys.addaudithook(watch)
        import tinkex, tinkex.testing
        for name in tinkex.__all__:
            getattr(tinkex, name)
        noted = list(seen)
        os.environ = environ

        assert not noted, noted
        assert threading.enumerate() == [threading.main_thread()]
    """

    ended = in_a_new_interpreter(program, "-B")

    assert ended.returncode == 0, ended.stderr


def test_importing_needs_nothing_but_the_three_that_it_depends_on():
    program = """
        import sys
        import tinkex, tinkex.testing

        for name in tinkex.__all__:
            getattr(tinkex, name)
        theirs = {
            name.partition(".")[0]
            for name, module in sys.modules.items()
            if "site-packages" in (getattr(module, "__file__", None) or "")
        }
        by_requests = {"requests", "urllib3", "certifi", "idna", "charset_normalizer", "chardet",
                       "brotli", "brotlicffi", "zstandard", "simplejson", "h2", "hpack",
                       "hyperframe", "cryptography", "OpenSSL", "socks"}
        left = {each for each in theirs if not each.startswith("_")}
        print(*sorted(left - by_requests - {"tinkex", "tenacity", "blinker"}))
    """

    ended = in_a_new_interpreter(program)

    assert (ended.stdout.split(), ended.stderr) == ([], "")
