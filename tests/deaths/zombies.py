"""A process that is stopped for longer than it may be silent, taken over, and wakes up again."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

from .checks import look_again, problems_of, undisturbed
from .every_point import SERVERS, passed
from .scene import FENCED_WITHIN, QUICK, Scene

#: Seconds between two steps, so that both train for longer than it takes to be fenced.
PACE = 0.1

#: Seconds that a stop is waited for.
PATIENCE = 30.0

#: When the zombie wakes up: once whoever took over has made its run, has saved, or is done.
WAKES = ("made", "SaveWeights", "done")

OPERATIONS = {"SaveWeights": 4, "OptimStep": 16, "ForwardBackward": 16}


def play(times, seed, *, journal, write, at_points=False):
    """Stop so many processes, or one at each point; write a table. Returns what is wrong."""
    expected, found, table = undisturbed(), [], {}
    places = _points(journal) if at_points else _moments(times, seed)
    for number, (which, place, wakes) in enumerate(places):
        with Scene(f"name-{number}", journal=journal) as scene:
            told, problems = wake_after(scene, which, place, wakes, expected)
        counts = table.setdefault(wakes, Counter())
        counts[told] += 1
        about = f"life {which + 1}, {place[0]} no. {place[1]}, wakes at {wakes}"
        write(f"{number} ({about}): {told}, {'; '.join(problems) or 'exact'}\n")
        found += [f"zombie --seed {seed}, no. {number} ({about}): {each}" for each in problems]
    for wakes, counts in table.items():
        for told, count in counts.most_common():
            write(f"| wakes at {wakes} | {told} | {count} |\n")
    return found


def _moments(times, seed):
    for number in range(times):
        chance = random.Random(f"{seed}:{number}")
        kind, when = chance.choice(list(OPERATIONS)), chance.choice(["before", "after"])
        place = f"{when} {kind}{SERVERS}", chance.randint(1, OPERATIONS[kind])
        yield 0, place, WAKES[number % len(WAKES)]


def _points(journal):
    """Each point of both lives, at its first time; those of the end do not matter."""
    number = 0
    for which, counts in enumerate(passed(journal=journal)):
        for point in counts:
            if "Monitor.stop" not in point:
                yield which, (point, 1), WAKES[number % len(WAKES)]
                number += 1


def wake_after(scene, which, place, wakes, expected):
    """Stop a life at a place, have another one take over, wake the first one.

    `which` 1: it goes on with what an earlier life has left. How the zombie ended, and what is
    wrong.
    """
    if which == 1:
        scene.strike_at("SaveWeights", "after", 2, scene.kill_newest)
        scene.life("zombie").end()
        scene.hold_fire()
    point, number = place
    orders = {"pace": PACE, "constants": QUICK}
    if point.endswith(SERVERS):
        when, kind = point.removesuffix(SERVERS).split(" ")
        scene.strike_at(kind, when, number, scene.stop_newest)
    else:
        orders.update(die_at=place, die_by=int(signal.SIGSTOP))
    zombie = scene.life("zombie", **orders)
    if not zombie.stops(PATIENCE):
        return f"it never stopped there, {zombie.end().kind}", []
    scene.hold_fire()
    before = {each.run_id for each in scene.server.runs()}
    heir = scene.life("heir", pace=PACE, constants=QUICK)
    while wakes != "done" and heir.lasts(0.02):
        if any(e.kind == wakes and e.run_id not in before for e in list(scene.witness.events)):
            break
    if wakes == "done":
        heir.lasts(PATIENCE)
    woken = time.monotonic()
    zombie.send(signal.SIGCONT)
    endings = {"zombie": zombie.end(), "heir": heir.end()}
    return _judged(scene, endings, woken, expected)


def _judged(scene, endings, woken, expected):
    zombie, heir = endings["zombie"], endings["heir"]
    told = f"zombie {zombie.kind}, heir {heir.kind}"
    problems = []
    done = [each for each in endings.values() if each.kind == "done"]
    if {zombie.kind, heir.kind} - {"done", "held", "fenced", "locked"} or not done:
        problems.append("they ended otherwise")
    elif len({each.run_id for each in done}) > 1:
        problems.append(f"done are {[each.run_id for each in done]}")
    else:
        problems += problems_of(scene, done[0].run_id, expected, fence=FENCED_WITHIN, woken=woken)
        problems += look_again(scene, done[0])
    if problems:
        problems += [f"{who}: {ending}" for who, ending in endings.items()]
    return told, problems
