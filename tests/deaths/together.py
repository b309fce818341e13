"""Many processes open one name at once: one trains, the others are refused, or fenced."""

from __future__ import annotations

import random
import time
from collections import Counter

from .checks import look_again, problems_of, undisturbed
from .scene import FENCED_WITHIN, QUICK, Scene

#: Seconds between two steps.
PACE = 0.05

#: Seconds that the next one is begun later, at most: the same moment, or some of them apart.
APART = (0.0, 0.1, 1.0)

#: Seconds that a process waits while another one trains.
HELD_WAIT = 4.0


def play(processes, times, seed, *, journal, write):
    """Have so many processes open one name, so often; write a table. Returns what is wrong."""
    expected, found, table = undisturbed(), [], {}
    for number in range(times):
        chance = random.Random(f"{seed}:{number}")
        machines, begun = ["one", "different"][number % 2], ["new", "left"][number // 2 % 2]
        with Scene(f"name-{number}", journal=journal) as scene:
            if begun == "left":
                _leave(scene, chance)
            pauses = [0.0] + [chance.choice(APART) * chance.random() for _ in range(processes - 1)]
            endings, problems = open_at_once(scene, pauses, machines, expected)
        about = f"{begun} name, {machines} machine{'s' * (machines != 'one')}"
        counts = table.setdefault(about, Counter())
        counts[", ".join(f"{count} {kind}" for kind, count in sorted(endings.items()))] += 1
        write(f"{number} ({about}): {dict(endings)} {'; '.join(problems) or 'exact'}\n")
        command = f"together --processes {processes} --seed {seed}, no. {number} ({about})"
        found += [f"{command}: {each}" for each in problems]
    for about, counts in table.items():
        for kinds, count in counts.most_common():
            write(f"| {about} | {kinds} | {count} |\n")
    return found


def _leave(scene, chance):
    """A life that is killed in the midst of its training."""
    scene.strike_at("OptimStep", "after", chance.randint(1, 14), scene.kill_newest)
    scene.life("first").end()
    scene.hold_fire()


def open_at_once(scene, pauses, machines, expected):
    """Begin a life after each pause, in seconds; how they ended, and what is wrong with that."""
    lives = []
    for number, pause in enumerate(pauses):
        time.sleep(pause)
        machine = "one" if machines == "one" else f"of {number}"
        options = {"pace": PACE, "held_wait": HELD_WAIT, "constants": QUICK}
        lives.append(scene.life(machine, **options))
    endings = [each.end() for each in lives]
    counts = Counter(each.kind for each in endings)
    problems = [str(each) for each in endings if each.kind not in ("done", "held", "fenced")]
    done = [each for each in endings if each.kind == "done"]
    if len({each.run_id for each in done}) != 1:
        return counts, [*problems, f"done are {[each.run_id for each in done]}", *map(str, endings)]
    # On one machine nobody trains beside another; elsewhere not for long.
    fence = 0.0 if machines == "one" else FENCED_WITHIN
    problems += problems_of(scene, done[0].run_id, expected, fence=fence)
    problems += look_again(scene, done[0])
    if problems:
        problems += map(str, endings)
    return counts, problems
