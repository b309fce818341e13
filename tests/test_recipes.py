"""The recipes of docs/recipes.md do what they say, against servers on this machine."""

from __future__ import annotations

import gc
import logging
import re
import ssl
import sys
from pathlib import Path

import pytest
import trustme
from support.boards import Boards
from support.http_servers import RawServer, Stub, as_json
from support.mails import MailServer
from support.world import RUN

from tinkex.rehearsal import RehearsalServer, batch, mean_loss

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
BOARD, WEBHOOK, MAIL = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.S | re.M)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def run_snippet(code, **names):
    names["__name__"] = "recipe"
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("code", [BOARD, WEBHOOK, MAIL], ids=["board", "webhook", "mail"])
def test_a_recipe_is_short(code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


# Weights & Biases


@pytest.fixture
def boards(monkeypatch):
    made = Boards()
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


@pytest.fixture
def server(monkeypatch):
    with RehearsalServer() as made:
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        yield made


def train_step(segment, step):
    import tinker

    forward = segment.client.forward_backward(batch(step), "cross_entropy")
    segment.client.optim_step(tinker.AdamParams(learning_rate=0.05)).result()
    if (step + 1) % 5 == 0:
        segment.save_state(f"{step + 1:06d}", step=step + 1)
    return mean_loss(forward.result())


def only_curve(boards):
    (rows,) = boards.runs.values()
    return list(rows.values())


def test_all_generations_are_one_curve_and_no_row_is_dropped(server, boards):
    server.corrupt_at(None, 13)
    run_snippet(BOARD, train_step=train_step, total_steps=16)

    rows = only_curve(boards)
    steps = [row["train/step"] for row in rows]
    assert steps == [*range(13), *range(10, 16)]
    assert boards.dropped == []
    # Both rows of a step that was run twice are at the same place, of the same value.
    last = {row["train/step"]: row["train/loss"] for row in rows}
    assert [last[row["train/step"]] for row in rows] == [row["train/loss"] for row in rows]
    assert {row["axes"]["train/loss"] for row in rows} == {"train/step"}


def test_the_script_that_is_run_again_goes_on_in_the_same_curve(server, boards):
    for total_steps in (10, 15):
        run_snippet(BOARD, train_step=train_step, total_steps=total_steps).clear()
        gc.collect()  # a client that lives is gone on with in place, as no later process can

    assert [row["train/step"] for row in only_curve(boards)] == [*range(15)]
    assert len(server.runs()) == 2


def test_without_an_axis_of_its_own_the_curve_would_lack_what_is_run_again(server, boards):
    naive = BOARD.replace('"train/loss": loss})', '"train/loss": loss}, step=step)')
    server.corrupt_at(None, 13)
    run_snippet(naive, train_step=train_step, total_steps=16)

    assert [row["train/step"] for row in boards.dropped] == [10, 11]


def test_the_id_of_a_run_as_it_is_would_be_refused(server, boards):
    plain = re.sub(r"board_id = .*", "board_id = run.root_id", BOARD)

    with pytest.raises(ValueError, match="Invalid run ID"):
        run_snippet(plain, train_step=train_step, total_steps=1)


# The webhook


@pytest.fixture
def hook(monkeypatch):
    made = Stub()
    made.will((200, {}, b"ok"))
    monkeypatch.setenv("WEBHOOK_URL", f"{made.url}/services/T0/B0/secret")
    yield made
    made.close()


@pytest.fixture
def subscribed():
    """Runs the recipe, and ends its subscription when the test is over."""
    ends = []

    def run(code):
        names = run_snippet(code.replace("signals.subscribe(", "subscription = signals.subscribe("))
        ends.append(names["subscription"].close)

    yield run
    for end in ends:
        end()


def recover(world, **policy):
    """Recover a run, or give it up, on the thread of the test."""
    with world.monitor(**policy) as monitor:
        monitor.monitor_run(RUN, world.service)
        world.corrupt()
        world.fake.advance(10)


def test_a_webhook_is_told(world, hook, subscribed):
    subscribed(WEBHOOK)
    recover(world)

    sent = [body.decode() for _, path, _, body in hook.requests if path == "/services/T0/B0/secret"]
    assert sent == [f'{{"text": "{name}: {RUN}"}}' for name in ("detected", "completed")]
    assert hook.requests[0][2]["Content-Type"] == "application/json"


def refused(hook, monkeypatch):
    hook.will(as_json({}, 404))
    return "HTTP 404"


def hangs(hook, monkeypatch):
    hook.will(hook.hang)
    return "ReadTimeout"


def is_gone(hook, monkeypatch):
    gone = RawServer(lambda server, connection: None)
    monkeypatch.setenv("WEBHOOK_URL", f"{gone.url}/services/T0/B0/secret")
    gone.close()
    return "ConnectionError"


@pytest.mark.parametrize("fault", [refused, hangs, is_gone])
def test_a_webhook_that_fails_costs_a_line_in_the_log(
    world, hook, subscribed, monkeypatch, caplog, fault
):
    problem = fault(hook, monkeypatch)
    subscribed(WEBHOOK.replace("timeout=5", "timeout=0.1"))
    caplog.set_level(logging.INFO)
    recover(world)

    told = [record.getMessage() for record in caplog.records if record.name == "recipe"]
    assert told == [f"no message of {name}: {problem}" for name in ("detected", "completed")]
    assert "secret" not in caplog.text
    assert world.events.names[-1] == "completed"


# Mail


@pytest.fixture
def mails(monkeypatch, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    made = MailServer(context, "me", "secret")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    given = {"HOST": "127.0.0.1", "PORT": str(made.port), "USER": "me", "PASSWORD": "secret"}
    for name, value in given.items():
        monkeypatch.setenv(f"SMTP_{name}", value)
    monkeypatch.setenv("ALERT_ADDRESS", "me@example.org")
    yield made
    made.close()


def give_up(world, names):
    world.service.fail(ConnectionError("no such luck"), times=3)
    recover(world, max_attempts=1, fallback_checkpoints=0, on_failure=names["policy"].on_failure)
    assert world.events.names[-1] == "exhausted"


def test_a_mail_tells_of_a_run_that_is_given_up(world, mails):
    give_up(world, run_snippet(MAIL))

    (mail,) = mails.mails
    assert mail["Subject"] == f"{RUN} was not recovered"
    assert mail["From"] == mail["To"] == "me@example.org"
    assert "no such luck" in mail.get_content()


def test_a_mail_that_is_refused_costs_a_line_in_the_log(world, mails, monkeypatch, caplog):
    monkeypatch.setenv("SMTP_PASSWORD", "wrong-password")
    give_up(world, run_snippet(MAIL))

    assert mails.mails == []
    assert "535" in caplog.text
    assert "wrong-password" not in caplog.text
