"""Kills at every point: each life dies at one, and another one goes on from there."""

from __future__ import annotations

from collections import Counter

from .checks import look_again, problems_of, undisturbed
from .scene import Scene

#: The step at which the server corrupts the run of each life, and the save after which the first
#: one dies.
CORRUPTED_AT = (6, 18)
RESTARTED_AFTER = 3

#: What goes on: on the same machine with the same journal, or on another without.
MACHINES = {"same": ("first", "journal"), "another": ("another", "another")}


def play(*, journal, write, only=""):
    """Kill at each point whose name has `only` in it; write a table. Returns what is wrong.

    At its first time and at its last one; at a commit of the journal each time.
    """
    expected, found, total = undisturbed(), [], Counter()
    for which, counts in enumerate(passed(journal=journal)):
        write(f"life {which + 1}: {len(counts)} points, passed {counts.total()} times\n")
        for point, count in counts.items():
            if only not in point:
                continue
            endings = Counter()
            for number in range(1, count + 1) if "COMMIT" in point else sorted({1, count}):
                for machine in MACHINES:
                    ended = kill_at(which, (point, number), machine, expected, journal=journal)
                    endings[ended if ended in ("exact", "not reached") else "WRONG"] += 1
                    if ended not in ("exact", "not reached"):
                        about = f"points: life {which + 1}, {point!r} no. {number}, {machine}"
                        found.append(f"{about}: {ended}")
                        write(f"{found[-1]}\n")
            total.update(endings)
            told = ", ".join(f"{how} {times}" for how, times in endings.items())
            write(f"| {which + 1} | {point} | {count} | {told} |\n")
    write(f"{total.total()} lives: {dict(total)}\n")
    return found


def passed(*, journal):
    """How often each point is passed in the first life, and in the second."""
    found = []
    with Scene(journal=journal) as scene:
        for life in _two_lives(scene, [{"tells_points": True}] * 2):
            before = len(scene.witness.events)
            life.end()
            scene.hold_fire()
            counts = Counter(life.passed())
            for event in scene.witness.events[before:]:
                counts.update(f"{when} {event.kind}{SERVERS}" for when in ("before", "after"))
            found.append(counts)
    return found


#: The end of the names of points that are the server's.
SERVERS = " by the server"


def _two_lives(scene, orders):
    """Two lives with a recovery: one dies after a save, the other goes on to the end."""
    for number, given in enumerate(orders):
        scene.server.corrupt_at(None, CORRUPTED_AT[number])
        if number == 0:
            scene.strike_at("SaveWeights", "after", RESTARTED_AFTER, scene.kill_newest)
        yield scene.life("first", **given)


def kill_at(which, die_at, machine, expected, *, journal):
    """Kill a life at a point, and go on; `exact`, `not reached`, or what is wrong."""
    point, number = die_at
    with Scene(journal=journal) as scene:
        orders = [{}, {}]
        if not point.endswith(SERVERS):
            orders[which] = {"die_at": die_at}
        lives = _two_lives(scene, orders)
        for life in range(which + 1):
            if life == which and point.endswith(SERVERS):
                when, kind = point.removesuffix(SERVERS).split(" ")
                scene.strike_at(kind, when, number, scene.kill_newest)
            ending = next(lives).end()
            scene.hold_fire()
        if ending.kind == "done":
            return "not reached"
        if ending.kind != "killed":
            return f"it ended otherwise: {ending}"
        where, file = MACHINES[machine]
        last = scene.life(where, journal=file).end()
        if last.kind != "done":
            return f"the next life: {last}"
        wrong = [*problems_of(scene, last.run_id, expected), *look_again(scene, last)]
        return "; ".join(wrong) or "exact"
