"""What must be true of a name when its training is done, by the server's own log."""

from __future__ import annotations

import itertools

from tinkex import Journal
from tinkex.types import TinkerPath

from .life import STEPS
from .scene import Scene

#: Seconds before a run is made in which a save may come too late for it.
JUST_BEFORE = 0.2


def undisturbed():
    """The steps and losses of a training that nothing happens to."""
    with Scene() as scene:
        ending = scene.life().end()
        assert ending.kind == "done", ending
        found = steps_of(scene, chain_of(scene, ending.run_id))
        assert [step for step, _ in found] == list(range(STEPS)), found
        return found


def chain_of(scene, run_id):
    """The runs that a run's metadata leads to, the first one first."""
    chain = [scene.server.run(run_id)]
    while (path := (chain[0].user_metadata or {}).get("tinkex_checkpoint")) is not None:
        chain.insert(0, scene.server.run(TinkerPath.parse(path).run_id))
    return chain


def steps_of(scene, chain):
    """The steps that led to the newest weights of a chain: of each run those that count."""
    ends = [run.start_step for run in chain[1:]] + [None]
    return [
        (each.step, each.loss)
        for run, end in zip(chain, ends, strict=True)
        for each in scene.server.steps(run.run_id)
        if end is None or each.step < end
    ]


def problems_of(scene, run_id, expected, *, fence=0.0, woken=0.0):
    """What is wrong with a name whose last life says that its training is done, in words.

    `fence`: for so many seconds two trainers may live together, where one was `woken` from then on.
    """
    chain = chain_of(scene, run_id)
    return [
        *_wrong_chain(scene, chain),
        *_wrong_steps(steps_of(scene, chain), expected),
        *(problem for run in chain for problem in _set_back(scene, run)),
        *_late_steps(scene, chain, fence, woken),
        *_unnamed(scene),
    ]


def _wrong_chain(scene, chain):
    for before, run in itertools.pairwise(chain):
        metadata = run.user_metadata
        if run.created_from != metadata["tinkex_checkpoint"]:
            yield f"{run.run_id} was made from {run.created_from}, and says {metadata}"
        # Of one in between that had saved nothing the source was restored again.
        if before.run_id not in _ancestors(scene, run):
            yield f"{run.run_id} was made from a checkpoint of {before.run_id}, and says {metadata}"
    numbers = [int(run.user_metadata["tinkex_generation"]) for run in chain]
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        yield f"the generations are {numbers}"
    if len({run.user_metadata["tinkex_root"] for run in chain}) > 1:
        yield "there are several roots in one chain"


def _ancestors(scene, run):
    found = []
    while (before := (run.user_metadata or {}).get("tinkex_recovered_from")) is not None:
        found.append(before)
        run = scene.server.run(before)
    return found


def _wrong_steps(found, expected):
    if found == expected:
        return
    if [step for step, _ in found] != [step for step, _ in expected]:
        yield f"the steps are {[step for step, _ in found]}"
        return
    apart = {step: loss - other for (step, loss), (_, other) in zip(found, expected, strict=True)}
    yield f"the losses are off by { {step: off for step, off in apart.items() if off} }"


def _set_back(scene, run):
    """Whether a run began before what was saved last of its lineage when it was made."""
    events, child = scene.witness.events, run
    made = {each.run_id: each.moment for each in events if each.kind == "made"}
    while (before := (child.user_metadata or {}).get("tinkex_recovered_from")) is not None:
        own = [each for each in events if each.run_id == before and each.is_ok]
        until = made[child.run_id] - JUST_BEFORE
        saves = [e.moment for e in own if e.kind == "SaveWeights" and e.moment < until]
        child = scene.server.run(before)
        if saves:
            trained = sum(each.kind == "OptimStep" and each.moment < saves[-1] for each in own)
            if run.start_step < child.start_step + trained:
                yield (
                    f"{run.run_id} was made from {run.created_from}, though {before} had saved "
                    f"step {child.start_step + trained}"
                )
            return


def _late_steps(scene, chain, fence, woken):
    """Steps of those that were replaced, or lost, once another generation had saved."""
    saved_at = {}
    for event in scene.witness.events:
        if event.kind == "SaveWeights" and event.is_ok:
            saved_at.setdefault(event.run_id, event.moment)
    number_of = {
        run.run_id: int((run.user_metadata or {}).get("tinkex_generation", -1))
        for run in scene.server.runs()
    }
    survivors = {run.run_id: saved_at[run.run_id] for run in chain if run.run_id in saved_at}
    for event in scene.witness.events:
        if event.kind != "OptimStep" or not event.is_ok:
            continue
        number, own = number_of[event.run_id], event.run_id
        for other, since in survivors.items():
            is_older = number < number_of[other]
            is_lost = own not in survivors and number == number_of[other]
            late = event.moment - max(since, woken) - fence
            if (is_older or is_lost) and late > 0:
                yield (
                    f"{own} (generation {number}) was trained {event.moment - since:.3f} s after "
                    f"the first save of {other} (generation {number_of[other]})"
                )
                return


def _unnamed(scene):
    """Runs that no journal of the scene tells of."""
    if not scene.has_journal:
        return
    named = set()
    for path in scene.journals:
        with Journal(path) as journal:
            for each in journal.history():
                named.update((each.root_id, each.run_id, each.body.get("successor_id")))
    for run in scene.server.runs():
        if run.run_id not in named:
            yield f"no journal names {run.run_id} {run.user_metadata}"


def look_again(scene, ending):
    """Have a life on another machine find the training complete; what is wrong with that.

    It must come to the same run, and make none.
    """
    made = scene.server.training_clients_created
    again = scene.life("that looks", takeover=True).end()
    if again.kind != "done":
        yield f"whoever looks again: {again}"
    elif again.run_id != ending.run_id:
        yield f"whoever looks again comes to {again.run_id}, not {ending.run_id}"
    if more := scene.server.training_clients_created - made:
        yield f"whoever looks again makes {more} runs"
