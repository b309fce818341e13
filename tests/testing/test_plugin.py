"""The pytest plugin, in runs of pytest of its own: what it gives, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.long

#: What no run of pytest may wait for that asks for no fixture of ours.
HEAVY = ("requests", "blinker", "tenacity", "numpy", "starlette", "uvicorn", "tinker")

IN_ORDER = ("-p", "no:randomly", "-p", "no:xdist")


def test_it_is_found_by_pytest_where_tinkex_is_installed():
    (found,) = entry_points(group="pytest11", name="tinkex")

    assert found.value == "tinkex.testing.plugin"


def test_to_load_it_imports_none_of_what_the_fixtures_need():
    program = "import sys, pytest; before = set(sys.modules)\n"
    program += "import tinkex.testing.plugin; print(*sorted(set(sys.modules) - before))"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    ours = {"tinkex", "tinkex.testing", "tinkex.testing.plugin"}
    assert set(ended.stdout.split()) == ours


def test_a_run_that_asks_for_none_of_it_does_not_import_it(pytester):
    pytester.makepyfile(
        f"""
        import sys

        def test_it():
            loaded = {{name.partition(".")[0] for name in sys.modules}}
            assert loaded.isdisjoint({HEAVY!r})
            assert "tinkex.testing.plugin" in sys.modules
        """
    )

    pytester.runpytest_subprocess(*IN_ORDER).assert_outcomes(passed=1)


def test_a_server_is_used_by_clients_of_the_test_and_gone_after_it(pytester, monkeypatch):
    monkeypatch.setenv("TINKER_BASE_URL", "https://before.invalid")
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.setenv("TINKER_PROJECT_ID", "project")
    monkeypatch.setenv("XDG_STATE_HOME", "/before")
    pytester.makepyfile(
        """
        import os, socket
        from urllib.parse import urlsplit
        import pytest, tinker, tinkex

        NAMES = ("TINKER_BASE_URL", "TINKER_API_KEY", "TINKER_PROJECT_ID", "XDG_STATE_HOME")
        before = {name: os.environ.get(name) for name in NAMES}
        urls = []

        def test_during(tinkex_server, tmp_path_factory, monkeypatch):
            urls.append(tinkex_server.url)
            assert urlsplit(tinkex_server.url).hostname == "127.0.0.1"
            assert os.environ["XDG_STATE_HOME"].startswith(str(tmp_path_factory.getbasetemp()))
            service = tinker.ServiceClient()
            client = service.create_lora_training_client(base_model="any", rank=4).result()
            (run,) = tinkex_server.runs()
            assert client.model_id == run.run_id
            (listed,) = tinkex.rest.list_training_runs(tinkex.Config.from_env()).training_runs
            assert listed.training_run_id == run.run_id
            monkeypatch.undo()
            assert os.environ["TINKER_BASE_URL"] == tinkex_server.url

        def test_after():
            assert {name: os.environ.get(name) for name in NAMES} == before
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", urlsplit(urls[0]).port), timeout=5)

        def test_another_test_has_another(tinkex_server):
            assert tinkex_server.runs() == ()
        """
    )

    pytester.runpytest_subprocess(*IN_ORDER).assert_outcomes(passed=3)


def test_a_proxy_of_the_environment_is_not_asked_for_the_server(pytester, monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    pytester.makepyfile(
        """
        import tinker

        def test_it(tinkex_server):
            assert tinker.ServiceClient().get_server_capabilities().supported_models
        """
    )

    pytester.runpytest_subprocess(*IN_ORDER).assert_outcomes(passed=1)


def test_without_the_extra_the_server_fails_and_names_it(pytester):
    pytester.makeconftest('import sys; sys.modules["starlette"] = None')
    pytester.makepyfile("def test_it(tinkex_server): pass\ndef test_other(fake_scheduler): pass")

    ended = pytester.runpytest_subprocess(*IN_ORDER)

    ended.assert_outcomes(errors=1, passed=1)
    ended.stdout.fnmatch_lines(
        "starlette is not installed; the fixture tinkex_server needs an extra: "
        'pip install "tinkex?rehearsal?"'
    )


def test_workers_and_random_orders_disturb_no_server(pytester):
    pytester.makepyfile(
        """
        import os
        import pytest, tinker

        @pytest.mark.parametrize("number", range(4))
        def test_it(tinkex_server, number):
            service = tinker.ServiceClient()
            client = service.create_lora_training_client(base_model="any", rank=4).result()
            assert [run.run_id for run in tinkex_server.runs()] == [client.model_id]
        """
    )

    pytester.runpytest_subprocess("-n2").assert_outcomes(passed=4)


def test_tests_in_the_style_of_unittest_have_it_too(pytester):
    pytester.makepyfile(
        """
        import os, unittest
        import pytest

        class Test(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def take(self, tinkex_server, recovery_events, fake_scheduler):
                self.server, self.events = tinkex_server, recovery_events
                self.scheduler = fake_scheduler

            def test_it(self):
                self.assertEqual(os.environ["TINKER_BASE_URL"], self.server.url)
                self.assertEqual(self.events.names, [])
                self.assertEqual(self.scheduler.now(), 0.0)

        @pytest.mark.usefixtures("tinkex_server")
        class OtherTest(unittest.TestCase):
            def test_it(self):
                self.assertIn("127.0.0.1", os.environ["TINKER_BASE_URL"])
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_events_are_those_of_the_test(pytester):
    pytester.makepyfile(
        """
        import pytest
        from tinkex import Monitor, Policy
        from tinkex.testing import FakeRest, FakeServiceClient, InlineExecutor

        RUN = "s:train:0"
        kept = []

        @pytest.fixture
        def recover(fake_scheduler):
            rest = FakeRest()
            fakes = {"rest_module": rest, "executor": InlineExecutor()}
            with Monitor(Policy(enabled=True), scheduler=fake_scheduler, **fakes) as monitor:
                def recover():
                    path = f"tinker://{RUN}/weights/c1"
                    rest.set_run(RUN, corrupted=True, last_checkpoint=path)
                    monitor.monitor_run(RUN, FakeServiceClient())
                    fake_scheduler.advance(30.0)
                yield recover

        def test_first(recover, recovery_events):
            recover()
            assert recovery_events.names[-1] == "completed"
            kept.append((recovery_events, len(recovery_events)))

        def test_second(recover, recovery_events):
            assert len(recovery_events) == 0
            recover()
            assert len(recovery_events.of("completed")) == 1
            (first, count), = kept
            assert len(first) == count
        """
    )

    pytester.runpytest_subprocess(*IN_ORDER).assert_outcomes(passed=2)
