"""Kills at random moments: by the clock, and around random operations of the server."""

from __future__ import annotations

import random
import time
from collections import Counter

from .checks import look_again, problems_of, undisturbed
from .life import EVERY, STEPS
from .scene import Scene

#: The most lives of a name, how many of them are killed, and how many may end otherwise.
MOST_LIVES = 20
MOST_KILLS = 10
MOST_WRONG = 3

#: The operations of the server around which is killed, and up to which one of them.
OPERATIONS = {"made": 1, "LoadWeights": 1, "SaveWeights": 3, "OptimStep": 10, "ForwardBackward": 10}


def play(kills, seed, *, journal, write):
    """Kill that many processes; write how each name ended. Returns what is wrong, in words."""
    undisturbed()  # the first one waits for the process that all are forked from
    began = time.monotonic()
    expected = undisturbed()
    whole = time.monotonic() - began
    counts, found, number = Counter(), [], 0
    while counts.total() < kills:
        chance = random.Random(f"{seed}:{number}")
        with Scene(f"name-{number}", journal=journal) as scene:
            most = chance.randint(1, MOST_KILLS)
            killed, problems = until_done(scene, chance, expected, whole, most)
        write(f"name {number}: {len(killed)} kills: {'; '.join(problems) or 'exact'}\n")
        found += [f"random --seed {seed}, name {number}: {each}" for each in problems]
        counts.update(killed)
        number += 1
    told = ", ".join(f"{how} {count}" for how, count in counts.most_common())
    write(f"{counts.total()} kills of {number} names: {told}\n")
    return found


def until_done(scene, chance, expected, whole, most):
    """Live and die until the training is done; which kills there were, and what is wrong.

    A life that is left alone takes `whole` seconds. At `most` so many are killed.
    """
    killed, problems = [], []
    machine, journal = 0, 0
    for _ in range(MOST_LIVES):
        if chance.random() < 0.3:
            mode = chance.choice(["fail", "hang"])
            scene.server.corrupt_at(None, chance.randrange(EVERY, STEPS), mode=mode)
        if chance.random() < 0.4:
            machine += 1
            journal += chance.random() < 0.3
        where = {"machine": machine, "journal": f"journal-{journal}"}
        life, how = _begun(scene, chance, where, whole, is_spared=len(killed) >= most)
        ending = life.end()
        scene.hold_fire()
        if ending.kind == "killed":
            killed.append(how)
        elif ending.kind == "done":
            wrong = [*problems_of(scene, ending.run_id, expected), *look_again(scene, ending)]
            return killed, problems + wrong
        else:
            problems.append(f"life {len(scene.lives) - 1} ended otherwise: {ending}")
            if len(problems) == MOST_WRONG:
                break
    return killed, [*problems, "it never ended: the run is lost"]


def _begun(scene, chance, where, whole, *, is_spared):
    """A life that is killed at a random moment, if it comes to that, unless it is spared."""
    is_by_clock, seconds = chance.random() < 0.5, chance.uniform(0.0, 1.1 * whole)
    # The first life loads nothing.
    kinds = [each for each in OPERATIONS if scene.lives or each != "LoadWeights"]
    kind, when = chance.choice(kinds), chance.choice(["before", "after"])
    number = chance.randint(1, OPERATIONS[kind])
    if is_spared:
        return scene.life(**where), "spared"
    if not is_by_clock:
        scene.strike_at(kind, when, number, scene.kill_newest)
        return scene.life(**where), f"{when} {kind}"
    life = scene.life(**where)
    if life.lasts(seconds):
        life.process.kill()
    told = life.told()
    return life, f"by the clock after {told[-1][0] if told else 'nothing'}"
