"""Why a run was flagged: asked of the server when `detected` is delivered, and told by it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.loops import SdkError
from support.world import OTHER, RECOVERY, RUN, World

from tinkex import Config, signals
from tinkex.errors import ApiStatusError, ApiTimeoutError
from tinkex.testing import FakeRest

pytestmark = pytest.mark.usefixtures("no_environment")

SESSION = RUN.partition(":")[0]
KEY = "tml-0123456789abcdef-secret/with+signs"
FAILED = {"type": "failed", "category": "internal", "message": "a worker was lost"}


class SearchableRest(FakeRest):
    """A rest module that can search sessions; `answer` gets the id that is searched for."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.searched = []

    def search_sessions(self, config, session_id):
        self.searched.append(session_id)
        return self.answer(session_id)


class Failing:
    """An answer that is an error, until it is mended."""

    def __init__(self, error):
        self.error = error

    def __call__(self, session_id):
        if self.error is not None:
            raise self.error
        return [row_of(FAILED, session_id)]


def row_of(status, session_id=SESSION):
    return {"session_id": session_id, "status": status}


def searchable(world, answer):
    world.rest = SearchableRest(answer)
    return world.rest


def recovered(world, run_id=RUN, monitor=None, **options):
    """Have a run corrupted and recovered, and give its `detected`."""
    world.corrupt(run_id)
    monitor = monitor or world.monitor(options=options)
    monitor.monitor_run(run_id, world.service)
    world.fake.advance(10)
    assert world.events.names_of(run_id)[: len(RECOVERY)] == RECOVERY
    return world.events.of("detected", run_id)[-1]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (FAILED, "internal: a worker was lost"),
        ({**FAILED, "category": "user", "message": " too\n large\t"}, "user: too large"),
        (SimpleNamespace(**FAILED), "internal: a worker was lost"),
        ({"type": "cancelled", "detail": "by the console"}, "cancelled: by the console"),
    ],
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda row: [row],
        lambda row: (SimpleNamespace(**row),),
        lambda row: {"sessions": [row], "next_cursor": None},
        lambda row: SimpleNamespace(sessions=[row]),
        lambda row: [row_of(FAILED, "other"), row],
    ],
)
def test_the_reason_is_what_the_search_tells_of_the_session(world, status, reason, wrap):
    rest = searchable(world, lambda _: wrap(row_of(status)))

    event = recovered(world)

    assert event.reason == reason
    assert event.cause == "corrupted"
    assert rest.searched == [SESSION]


def without(name):
    return {key: value for key, value in FAILED.items() if key != name}


class Hostile:
    """An object that cannot even be looked at."""

    def __getattr__(self, name):
        raise RuntimeError("no")


ODD_STATUSES = [
    None,
    {},
    [],
    [FAILED],
    "failed",
    7,
    True,
    Hostile(),
    {"type": "active"},
    {"type": None},
    {"type": ["failed"]},
    {"type": "client_finished", "reason": {"type": "errored"}, "detail": "why"},
    {"type": "unheard of", "category": "internal", "message": "m"},
    {"type": "cancelled"},
    {"type": "cancelled", "detail": None},
    {"type": "cancelled", "detail": ""},
    {"type": "cancelled", "detail": 7},
    {"type": "failed"},
    without("type"),
    without("category"),
    without("message"),
    *({**FAILED, "message": odd} for odd in (None, "", " \n", 7, True, ["m"], {"text": "m"})),
    *({**FAILED, "category": odd} for odd in (None, "", 7, ["internal"], {"type": "internal"})),
]
ODD_ANSWERS = [
    None,
    7,
    "sessions",
    b"[]",
    [],
    {},
    {"sessions": None},
    {"sessions": {}},
    {"sessions": "3f0c"},
    SimpleNamespace(),
    SimpleNamespace(sessions=None),
    Hostile(),
    [None],
    ["3f0c"],
    [[]],
    [7],
    [{}],
    [Hostile()],
    [{"status": FAILED}],
    [{"session_id": SESSION}],
    [row_of(FAILED, None)],
    [row_of(FAILED, "other")],
    [row_of(FAILED, SESSION.upper())],
    *([row_of(status)] for status in ODD_STATUSES),
]


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=[str(n) for n in range(len(ODD_ANSWERS))])
def test_an_odd_answer_is_no_reason(world, caplog, answer):
    rest = searchable(world, lambda _: answer)

    assert recovered(world).reason is None
    assert rest.searched == [SESSION]
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


def test_a_module_without_a_search_is_not_asked(world):
    assert recovered(world).reason is None


def test_a_module_that_takes_a_timeout_is_told_it(world):
    given = []

    class Bounded(FakeRest):
        def search_sessions(self, config, session_id, *, timeout):
            given.append(timeout)
            return [row_of(FAILED)]

    world.rest = Bounded()

    assert recovered(world).reason == "internal: a worker was lost"
    assert given == [1.0]


def test_a_run_that_names_no_session_is_not_asked_for(world):
    rest = searchable(world, lambda _: [row_of(FAILED)])

    assert recovered(world, "a-run").reason is None
    assert rest.searched == []


def test_of_a_successor_its_own_session_is_told(world):
    rest = searchable(world, lambda session: [row_of({**FAILED, "message": session}, session)])
    monitor = world.monitor()
    recovered(world, monitor=monitor)
    successor = monitor.status(RUN).run_id
    world.corrupt(successor)

    world.fake.advance(10)

    reasons = [event.reason for event in world.events.of("detected")]
    assert reasons == ["internal: 3f0c", "internal: fake"]
    assert rest.searched == ["3f0c", "fake"]


def test_only_flagged_runs_are_asked_for(world):
    rest = searchable(world, lambda _: [row_of(FAILED)])
    world.rest.set_run(RUN, last_checkpoint=f"tinker://{RUN}/weights/1")
    run = world.monitor().monitor_run(RUN, world.service)

    run.recover()
    world.rest.set_run(run.run_id, last_checkpoint=f"tinker://{run.run_id}/weights/1")
    assert run.report_failure(SdkError("a worker died"))

    assert world.events.one("detected").cause == "error"
    assert "a worker died" in world.events.one("detected").reason
    assert rest.searched == []


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_the_route_is_asked_once(world, status):
    rest = searchable(world, Failing(ApiStatusError.of(status)))
    monitor = world.monitor()

    assert recovered(world, monitor=monitor).reason is None
    rest.answer.error = None
    world.fake.advance(3600)

    assert recovered(world, OTHER, monitor=monitor).reason is None
    assert rest.searched == [SESSION]


@pytest.mark.parametrize(
    "error",
    [ApiTimeoutError("slow"), ApiStatusError.of(500), RuntimeError("odd"), SystemExit()],
    ids=repr,
)
def test_a_server_that_failed_to_answer_is_left_alone_for_a_minute(world, error):
    rest = searchable(world, Failing(error))
    monitor = world.monitor()

    reasons = [recovered(world, monitor=monitor).reason]
    rest.answer.error = None
    reasons.append(recovered(world, OTHER, monitor=monitor).reason)
    world.fake.advance(60)
    reasons.append(recovered(world, "88bb:train:0", monitor=monitor).reason)

    assert reasons == [None, None, "internal: a worker was lost"]
    assert rest.searched == [SESSION, "88bb"]


def test_one_account_without_the_route_says_nothing_of_another(world):
    def answer(session_id):
        if session_id == SESSION:
            raise ApiStatusError.of(404)
        return [row_of(FAILED, session_id)]

    searchable(world, answer)
    configs = iter(Config(f"tml-{name}", "https://tinker.invalid") for name in "ab")
    credentials = lambda _: SimpleNamespace(config=next(configs))  # noqa: E731
    monitor = world.monitor(options={"rest_client_fun": credentials})

    assert recovered(world, monitor=monitor).reason is None
    assert recovered(world, OTHER, monitor=monitor).reason == "internal: a worker was lost"


@pytest.mark.parametrize("spelt", [KEY, "tml-0123456789abcdef-secret%2Fwith%2Bsigns", "x-secret-x"])
def test_no_secret_is_in_a_reason(world, spelt, caplog):
    searchable(world, lambda _: [row_of({**FAILED, "message": f"{'a' * 480} {spelt}"})])
    config = Config(KEY, "https://tinker.invalid", headers={"X-Gate": "x-secret-x"})

    event = recovered(world, rest_client_fun=lambda _: SimpleNamespace(config=config))

    assert event.reason == f"internal: {'a' * 480} ***"
    assert spelt not in caplog.text


def test_a_reason_is_one_line_of_bounded_length(world):
    message = "a\n\x1b[31m b \ud800" + "long " * 100_000
    searchable(world, lambda _: [row_of({**FAILED, "message": message})])

    reason = recovered(world).reason

    assert len(reason) <= 500
    assert reason.startswith("internal: a [31m b long long")
    assert reason.isprintable()


def test_the_log_tells_the_reason(world, caplog):
    searchable(world, lambda _: [row_of(FAILED)])

    recovered(world)

    (line,) = [each.getMessage() for each in caplog.records if "detected" in each.getMessage()]
    assert "reason=internal: a worker was lost" in line


def test_an_interrupt_while_it_is_asked_reaches_the_caller(world):
    rest = searchable(world, Failing(KeyboardInterrupt()))
    monitor = world.monitor()
    world.corrupt()
    monitor.monitor_run(RUN, world.service)

    with pytest.raises(KeyboardInterrupt):
        world.fake.advance(10)
    rest.answer.error = None

    assert recovered(world, OTHER, monitor=monitor).reason == "internal: a worker was lost"


def test_asked_inline_the_same_scenario_does_the_same_each_time():
    told = []
    for _ in range(2):
        world = World()
        searchable(world, lambda session: [row_of(FAILED, session)])
        with signals.subscribe(world.events):
            monitor = world.monitor()
            for number in range(9):
                recovered(world, f"run{number}:train:0", monitor=monitor)
        told.append([(each.name, each.run_id) for each in world.events.events])
        assert {each.reason for each in world.events.of("detected")} == {
            "internal: a worker was lost"
        }

    assert told[0] == told[1]
