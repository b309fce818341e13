"""The command line: what it prints, and the statuses with which it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import types

import pytest
import requests
from support.rehearsal_http import Client

import tinkex
from tinkex.cli import main
from tinkex.rehearsal.scenarios.catalog import play
from tinkex.rehearsal.scenarios.claims import ClaimError, check_equal

WAIT = 50.0

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

COMMAND = (sys.executable, "-m", "tinkex")


def run(*arguments, **environment):
    """Run the command as a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=WAIT,
        check=False,
    )


def rehearsed(capsys, *arguments):
    status = main(["rehearse", "--steps", "16", *arguments])
    return status, capsys.readouterr().out


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert capsys.readouterr().out == f"tinkex {tinkex.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["rehearse", "--seed", "-1"], "-1 is less than 0"),
        (["rehearse", "--steps", "many"], "invalid"),
    ],
)
def test_arguments_that_cannot_be_used_end_with_status_2(capsys, arguments, complaint):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert complaint in capsys.readouterr().err


def test_too_few_steps_end_with_status_2(capsys):
    assert main(["rehearse", "--steps", "3"]) == 2
    assert capsys.readouterr().err == "tinkex: --steps must be 4 or more, not 3\n"


def test_the_rehearsal_as_a_process_is_quick_quiet_and_exact():
    done = run("rehearse", "--seed", "3", COLUMNS="80")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "pass: largest difference of the loss, steps 28 to 59: 0.0"
    told = [line.split()[2] for line in lines if re.match(r" *\d+\.\d\d s  \w", line)]
    expected = ["detected", "started", "checkpoint_selected", "client_created", "completed"]
    assert told == expected
    ids = re.findall(r"^(?:uninterrupted|interrupted|its successor) +(\S+)$", done.stdout, re.M)
    assert len(set(ids)) == 3
    assert float(re.findall(r"^ +(\d+\.\d\d) s", done.stdout, re.M)[-1]) < 20.0


def test_the_rehearsal_is_exact_in_any_seed_and_never_the_same(capsys):
    charts = []
    for seed in ("0", "1"):
        status, out = rehearsed(capsys, "--seed", seed)
        assert status == 0
        assert out.splitlines()[-1].endswith("steps 8 to 15: 0.0")
        charts.append(out[out.index("loss, uninterrupted") :])

    assert charts[0] != charts[1]


def test_without_the_optimizer_the_losses_differ_as_they_must(capsys):
    status, out = rehearsed(capsys, "--weights-only")

    assert status == 0
    verdict, _, difference = out.splitlines()[-1].rpartition(" ")
    assert verdict == "pass: largest difference of the loss, steps 8 to 15:"
    assert 0.0 < float(difference) < 1.0
    assert "the optimizer's state begins at zero" in out


def test_broken_checkpoints_are_passed_over(capsys):
    status, out = rehearsed(capsys, "--break", "2")

    assert status == 0
    assert out.count("failed: Error while") == 2
    assert "the loop goes on at step 4, 4 steps back" in out
    assert out.splitlines()[-1].endswith("steps 4 to 15: 0.0")


def test_a_run_that_is_not_recovered_ends_with_status_1(capsys):
    status, out = rehearsed(capsys, "--break", "9")

    assert status == 1
    assert "exhausted" in out
    assert "FAIL: not recovered: run" in out


def test_a_terminal_without_unicode_gets_ascii():
    done = run("rehearse", "--steps", "8", PYTHONIOENCODING="ascii", COLUMNS="60")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("tinker", ["rehearse"]),
        ("tinker", ["rehearse", "--faults"]),
        ("numpy", ["rehearse"]),
        ("starlette", ["serve"]),
        ("uvicorn", ["serve"]),
    ],
)
def test_without_the_extra_it_says_what_to_install(package, arguments):
    code = f"""
        import sys
        sys.modules[{package!r}] = None
        from tinkex.cli import main
        sys.exit(main({arguments!r}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"tinkex: {package} is not installed; this command needs an extra:",
        'tinkex:     pip install "tinkex[rehearsal]"',
    ]


def served(*arguments):
    """A process that serves, and what it says to set in the environment."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([*COMMAND, "serve", *arguments], stdout=pipe, stderr=pipe, text=True)
    lines = [process.stdout.readline() for _ in range(3)]
    return process, dict(re.findall(r"^export (\w+)=(\S+)$", "".join(lines), re.M))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_tells_where_it_is_and_ends_when_it_is_told_to(tmp_path, number):
    process, told = served("--directory", str(tmp_path))
    try:
        assert set(told) == {"TINKER_BASE_URL", "TINKER_API_KEY"}
        runs = requests.get(
            f"{told['TINKER_BASE_URL']}/api/v1/training_runs",
            headers={"X-API-Key": told["TINKER_API_KEY"]},
            timeout=WAIT,
        )
        assert runs.json()["training_runs"] == []

        process.send_signal(number)

        out, err = process.communicate(timeout=WAIT)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.wait()


def test_serve_corrupts_the_first_run_that_comes_to_a_step():
    process, told = served("--corrupt-at", "2", "--corrupt-at", "4")
    try:
        url, key = told["TINKER_BASE_URL"], told["TINKER_API_KEY"]
        client = Client(types.SimpleNamespace(url=url, api_key=key))
        first, second = client.run(), client.run()
        client.train(first, 2)
        assert client.forward_backward(first).status_code == 200
        assert client.optim_step(first).status_code == 200

        lost = [client.get(f"training_runs/{run}").json()["corrupted"] for run in (first, second)]

        assert lost == [True, False]
    finally:
        process.kill()
        process.communicate(timeout=WAIT)


def test_serve_says_that_a_port_cannot_be_had(capsys):
    assert main(["serve", "--port", "99999"]) == 1
    assert "cannot listen on port 99999" in capsys.readouterr().err


def test_serve_refuses_a_file_in_the_place_of_its_directory(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")

    assert main(["serve", "--directory", str(file)]) == 2

    assert f"directory must be one, or not be there yet: {file}" in capsys.readouterr().err


def test_scenarios_are_told_of_with_their_figures(capsys):
    assert main(["rehearse", "--faults", "expired"]) == 0

    first, figures, _, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"pass  newest checkpoint expired  \(\d+\.\d s\)", first)
    assert figures == "      000014 has expired, 000007 was loaded at the first attempt"
    assert re.fullmatch(r"pass: 1 scenarios in \d+ s, 0 failed", last)


def test_a_word_in_no_scenario_ends_with_status_2(capsys):
    assert main(["rehearse", "--faults", "earthquake"]) == 2
    assert "no scenario has 'earthquake' in its name" in capsys.readouterr().err


def test_a_scenario_whose_claim_does_not_hold_fails_with_the_reason():
    def wrong(seed):
        check_equal("seed", seed, 8)
        return "unreached"

    result = play("wrong", seed=7, scenarios={"wrong": wrong})

    assert (result.passed, result.reason) == (False, "seed: 7, but it must be 8")


def test_a_scenario_that_breaks_fails_and_the_others_go_on():
    def broken(seed):
        raise KeyError("no such run")

    result = play("broken", scenarios={"broken": broken})

    assert (result.passed, result.reason) == (False, "KeyError: 'no such run'")


def test_a_claim_names_what_was_found_and_what_must_be():
    with pytest.raises(ClaimError, match=r"^steps: \[0, 2\], but it must be \[0, 1\]$"):
        check_equal("steps", [0, 2], [0, 1])
