"""Scenarios in which the account is refused, or the server answers late, wrongly or never."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import tinker

from ..stage import Stage
from ..trainee import Course
from ..web.faults import Fault, FaultHandle
from .claims import check_equal, check_holds
from .play import Play

#: How many runs the account has.
RUNS = 4
#: How many sweeps an account stays refused.
REFUSED_SWEEPS = 5

#: The step in which a server goes down.
OUTAGE_STEP = 17

#: The fault of each run's polls.
POLL_FAULTS: Mapping[str, Mapping[str, Any]] = {
    "429": {"kind": "status", "status": 429, "retry_after": 0.2, "times": 2},
    "500": {"kind": "status", "status": 500, "times": 3},
    "slow": {"kind": "slow", "seconds": 0.5, "times": 1},
    "cut": {"kind": "cut", "times": 2},
    "garbage": {"kind": "garbage", "times": 2},
    "hang": {"kind": "hang", "times": 1},
}

#: The routes of a poll of one run, and of the load of a checkpoint.
POLL = "GET /api/v1/training_runs/{}"
LOAD = "POST /api/v1/load_weights"

#: The routes on which the SDK fetches answers, and how long a step may take, in seconds.
ANSWER = "POST /api/v1/retrieve_future*"
PATIENCE = 20.0


def account_refused(seed: int) -> str:
    """Every call is answered with 402 for a while; all runs of the account are corrupted."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=14), runs=RUNS)
        play.begin(range(7))
        refused = stage.server.add_fault(Fault(route="* /api/v1/*", kind="status", status=402))
        play.corrupt()
        _hold(stage)
        refused.remove()
        _check_recovered(stage, play)
        check_equal("attempts begun", len(stage.events.named("started")), RUNS)
        check_equal("attempts failed", stage.events.named("failed"), [])
        return f"{RUNS} runs recovered, each at its first attempt; paused once, resumed once"


def creations_refused(seed: int) -> str:
    """Reads work, but making a training client is answered with 402 for a while."""
    # By default the SDK sleeps on a 402 for an hour; with this setting it sleeps once, for 5 s.
    config = {"billing_exception_max_pause_duration_sec": 0}
    with Stage(client_config=config) as stage:
        play = Play(stage, Course(seed=seed, steps=14), runs=RUNS)
        play.begin(range(7))
        refused = [
            stage.server.add_fault(Fault(route=route, kind="status", status=402))
            for route in (LOAD, "POST /api/v1/create_model")
        ]
        play.corrupt()
        _hold(stage)
        for fault in refused:
            fault.remove()
        _check_recovered(stage, play)
        numbers = {event.attempt for event in stage.events.named("started", "completed")}
        check_equal("numbers of attempts", numbers, {1})
        probes = len(stage.events.named("failed"))
        return (
            f"{RUNS} runs recovered, no attempt used up; paused once, resumed once, {probes} probes"
        )


def _hold(stage: Stage) -> None:
    check_holds(stage.events.wait_for("paused"), "the account is paused")
    check_holds(stage.events.wait_for_sweeps(REFUSED_SWEEPS), "the monitor continues meanwhile")
    check_equal("recovered meanwhile", stage.events.named("completed"), [])


def _check_recovered(stage: Stage, play: Play) -> None:
    check_holds(stage.events.wait_for("completed", len(play.runs)), "all runs are recovered")
    play.finish(7)
    told = [event.name for event in stage.events.named("paused", "resumed")]
    check_equal("signals of the account", told, ["paused", "resumed"])
    check_equal("clients made", play.clients_made, len(play.runs))


def polls_go_wrong(seed: int) -> str:
    """Polls get 429, 500, late answers, cut connections, garbage, and for one run no answer."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=14), runs=len(POLL_FAULTS))
        play.begin(range(7))
        faults = {
            name: stage.server.add_fault(Fault(route=POLL.format(run.run_id), **fields))
            for (name, fields), run in zip(POLL_FAULTS.items(), play.runs, strict=True)
        }
        hanging = play.runs[-1].run_id
        play.corrupt()
        check_holds(stage.events.wait_for("completed", len(play.runs)), "all runs are recovered")

        hits = {name: handle.hits for name, handle in faults.items()}
        wanted = {name: fields["times"] for name, fields in POLL_FAULTS.items()}
        check_equal("faults met", hits, wanted)
        completed = stage.events.named("completed")
        check_equal("recovered last", completed[-1].run_id, hanging)
        ahead = (completed[-1].time - completed[-2].time).total_seconds()
        check_holds(ahead > 1.0, "the run whose poll hangs delays no other")
        play.finish(7)
        check_equal("clients made", play.clients_made, len(play.runs))
    met = ", ".join(f"{name} {count}x" for name, count in hits.items())
    return f"{len(completed)} runs recovered, the hanging one {ahead:.1f} s after the others; {met}"


def sdk_retries(seed: int) -> str:
    """A load is answered with 500 once: the SDK itself tries again, no attempt is used up."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=14))
        play.begin(range(7))
        fault = stage.server.add_fault(Fault(route=LOAD, kind="status", status=500, times=1))
        play.corrupt()
        play.finish(7)
        check_equal("answers with 500", fault.hits, 1)
        check_equal("attempts", play.run.lineage[0].attempts, 1)
        check_equal("clients made", play.clients_made, 1)
    return "answered with 500 once, recovered at the first attempt"


def load_fails(seed: int) -> str:
    """The SDK gives up on a load with 500, twice: the same checkpoint is tried again later."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=14), kind=_Failing)
        play.begin(range(7))
        play.corrupt()
        play.finish(7)
        delays = [event.retry_in for event in stage.events.named("failed")]
        check_equal("attempts", play.run.lineage[0].attempts, 3)
        check_holds(len(delays) == 2 and min(delays) > 0.0, "there is a backoff after each failure")
        chosen = {each.checkpoint.tinker_path for each in stage.events.named("checkpoint_selected")}
        check_equal("checkpoints chosen", len(chosen), 1)
        check_equal("clients made", play.clients_made, 1)
    return f"2 failures, tried again after {delays[0]:.2f} s and {delays[1]:.2f} s"


class _Failing(tinker.ServiceClient):
    """A service client whose first two loads raise the SDK's error for HTTP 500."""

    failures = 2

    def create_training_client_from_state_with_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Raise the error twice, then make a client as usual."""
        if self.failures > 0:
            self.failures -= 1
            request = httpx.Request("POST", "http://127.0.0.1/api/v1/load_weights")
            answer = httpx.Response(500, request=request)
            raise tinker.InternalServerError("rehearsed", response=answer, body=None)
        return super().create_training_client_from_state_with_optimizer(*args, **kwargs)


def rolled_back_in_silence(seed: int) -> str:
    """The server goes down in a training and comes back with its newest checkpoint, in silence."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=30))

        def come_and_go() -> None:
            stage.server.stop()
            check_holds(stage.events.wait_for("paused"), "the outage was noticed")
            stage.server.roll_back(play.run.run_id)
            stage.server.start()

        lost = _lost_in(play, come_and_go)
        check_equal("proofs", len(stage.events.named("rolled_back")), 1)
        causes = [event.cause for event in stage.events.named("detected")]
        check_equal("causes", causes, ["rolled_back"])
        return f"noticed without a flag and without an error; {lost} steps trained again, exact"


def rolled_back_with_a_word(seed: int) -> str:
    """The same with requests in flight, which are answered with 410; only that is looked at."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=30, ahead=1), on_doubt="ignore")
        run_id, server = play.run.run_id, stage.server

        def come_and_go(unanswered: FaultHandle) -> None:
            server.wait_for(lambda: len(server.steps(run_id)) > OUTAGE_STEP, PATIENCE)
            server.stop()
            server.roll_back(run_id, refuse_unanswered=True)
            unanswered.remove()
            server.start()

        def while_it_trains() -> None:
            hang = server.add_fault(Fault(route=ANSWER, kind="hang"))
            threading.Thread(
                target=come_and_go, args=(hang,), name="tinkex-rehearsal-outage", daemon=True
            ).start()

        lost = _lost_in(play, while_it_trains)
        causes = [event.cause for event in stage.events.named("detected")]
        check_equal("causes", causes, ["rolled_back"])
        # The refusal and the weights tell the same; either may be first.
        check_equal("proofs", len(stage.events.named("rolled_back")), 1)
        return f"the refused requests began a recovery; {lost} steps trained again, exact"


def _lost_in(play: Play, outage: Callable[[], object]) -> int:
    """Train, with an outage that begins in one step; return how many steps were lost."""
    began: list[int] = []

    def begin(step: int) -> None:
        if step == OUTAGE_STEP and not began:
            began.append(step)
            outage()

    resumes = play.finish(on_step=begin)
    check_equal("recoveries", len(resumes), 1)
    return resumes[0].steps_lost or 0
