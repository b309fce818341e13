"""Who of several trainers of one lineage goes on is told by the account's list of runs alone."""

from __future__ import annotations

import itertools
import random

import pytest
from support.sites import Site
from support.world import weights

from tinkex.lineage.lineages import families_in, list_all
from tinkex.lineage.verdict import Holder, superseded_by
from tinkex.ports import RestPort

ME = Holder(owner="me", root="root", name="sft-7", run_id="5555:train:0", generation=2)


def row(run_id, owner, generation, *, saved, root="root", name="sft-7", made_from=None):
    metadata = {"tinkex_root": root, "tinkex_generation": str(generation)}
    metadata |= {"tinkex_checkpoint": made_from} if made_from else {}
    metadata |= {"tinkex_owner": owner} if owner else {}
    metadata |= {"tinkex_name": name} if name else {}
    checkpoint = {"tinker_path": weights("000001", run_id)} if saved else None
    return run_id, {"user_metadata": metadata, "last_checkpoint": checkpoint}


def verdict(rows, me=ME):
    site = Site([run_id for run_id, _ in rows])
    site.rows.update(dict(rows))
    rest = RestPort(site)
    families = families_in(rest, None, list_all(rest, None), name=me.name, root=me.root)
    return superseded_by(me, families)


def mine(*, saved, generation=2, run_id=ME.run_id):
    return row(run_id, "me", generation, saved=saved)


def other(run_id, generation, *, saved, owner="they", **more):
    return row(run_id, owner, generation, saved=saved, **more)


#: My run, another one, and whether that one supersedes me, or ties with me before it does.
TABLE = {
    "higher, saved": (True, other("9999:train:0", 3, saved=True), "yes"),
    "much higher, saved": (True, other("9999:train:0", 7, saved=True), "yes"),
    "higher, saved, I have nothing": (False, other("9999:train:0", 3, saved=True), "yes"),
    "higher, saved, without an owner": (
        True,
        other("9999:train:0", 3, saved=True, owner=None),
        "yes",
    ),
    "higher, nothing saved": (True, other("1111:train:0", 3, saved=False), "no"),
    "higher, nothing saved, as I": (False, other("1111:train:0", 3, saved=False), "no"),
    "lower": (True, other("1111:train:0", 1, saved=True), "no"),
    "lower, I have nothing": (False, other("1111:train:0", 1, saved=True), "no"),
    "equal, it alone saved": (False, other("9999:train:0", 2, saved=True), "tie"),
    "equal, I alone saved": (True, other("1111:train:0", 2, saved=False), "no"),
    "equal, both saved, its id is smaller": (True, other("1111:train:0", 2, saved=True), "tie"),
    "equal, both saved, mine is smaller": (True, other("9999:train:0", 2, saved=True), "no"),
    "equal, none saved, its id is smaller": (False, other("1111:train:0", 2, saved=False), "tie"),
    "equal, none saved, mine is smaller": (False, other("9999:train:0", 2, saved=False), "no"),
    "my own lost request": (True, other("1111:train:0", 3, saved=True, owner="me"), "no"),
    "of another name": (
        True,
        other("1111:train:0", 3, saved=True, root="other", name="sft-8"),
        "no",
    ),
    "another root of my name, both saved, smaller": (
        True,
        other("1111:train:0", 0, saved=True, root="other"),
        "tie",
    ),
    "another root of my name, both saved, greater": (
        True,
        other("9999:train:0", 9, saved=True, root="other"),
        "no",
    ),
    "another root of my name, it alone saved": (
        False,
        other("9999:train:0", 0, saved=True, root="other"),
        "tie",
    ),
    "another root of my name, I alone saved": (
        True,
        other("1111:train:0", 2, saved=False, root="other"),
        "no",
    ),
    "another root of my name, what a load left behind, I alone saved": (
        True,
        other("1111:train:0", 2, saved=False, root="other", made_from=weights("1", "0000:train:0")),
        "no",
    ),
}


@pytest.mark.parametrize("case", [*TABLE])
def test_who_supersedes_whom(case):
    is_saved, another, expected = TABLE[case]

    found = verdict([mine(saved=is_saved), another])

    if expected == "no":
        assert found is None
    else:
        run_id, told = another
        owner = told["user_metadata"].get("tinkex_owner")
        assert found == (run_id, owner, expected == "tie")


def test_the_winner_is_named_and_not_one_that_it_beats_as_well():
    rows = [
        mine(saved=True),
        other("1111:train:0", 2, saved=True, owner="one"),
        other("9999:train:0", 4, saved=True, owner="two"),
        other("2222:train:0", 3, saved=True, owner="three"),
    ]

    assert verdict(rows).run_id == "9999:train:0"


def test_a_run_that_is_not_taken_up_yet_is_superseded_by_a_next_generation_alone():
    before = Holder(owner="me", root="root", name="sft-7", run_id="5555:train:0", generation=2)
    left = other("5555:train:0", 2, saved=True, owner="whoever trained it")
    empty = other("1111:train:0", 2, saved=False, owner="whoever trained it")

    assert verdict([left, empty], before) is None
    assert verdict([left, other("9999:train:0", 3, saved=True)], before) is not None


def test_a_live_run_that_another_monitor_of_the_process_has_made_is_mine_as_well():
    live = row(ME.run_id, None, 2, saved=True)

    assert verdict([live]) is None
    assert verdict([live, other("1111:train:0", 2, saved=True)]).is_tie
    assert verdict([live, other("9999:train:0", 2, saved=True)]) is None


def test_of_my_own_lost_request_and_my_run_the_smaller_id_speaks_for_me():
    """Else a third one that lies between them would lose as well as I."""
    rows = [
        mine(saved=False),
        mine(saved=False, run_id="1111:train:0"),
        other("3333:train:0", 2, saved=False),
    ]

    assert verdict(rows) is None
    they = Holder(owner="they", root="root", name="sft-7", run_id="3333:train:0", generation=2)
    assert verdict(rows, they).run_id == "1111:train:0"


def test_a_run_that_goes_by_its_id_has_no_name_and_no_root_of_its_own():
    me = Holder(owner="me", root="0000:train:0", name=None, run_id="5555:train:0", generation=1)
    first = ("0000:train:0", {"user_metadata": None})
    own = row("5555:train:0", "me", 1, saved=True, root="0000:train:0", name=None)
    next_one = row("6666:train:0", "they", 2, saved=True, root="0000:train:0", name=None)

    assert verdict([first, own], me) is None
    assert verdict([first, own, next_one], me).run_id == "6666:train:0"


def test_a_list_that_lacks_my_lineage_proves_nothing():
    assert verdict([other("1111:train:0", 3, saved=True, root="other")]) is None


def trainer(chance, number, ids):
    """A trainer that has saved, in a list with its earlier runs and lost requests of its own."""
    owner, root = f"owner{number}", chance.choice(["r0", "r1"])
    generation, rows = chance.randrange(4), []
    for _ in range(chance.randrange(3)):
        is_lost = chance.random() < 0.5
        at = generation + 1 if is_lost else chance.randrange(generation + 1)
        saved = not is_lost and at < generation
        rows.append(row(next(ids), owner, at, saved=saved, root=root))
    live = next(ids)
    rows.append(row(live, owner, generation, saved=True, root=root))
    return Holder(owner, root, "sft-7", live, generation), rows


@pytest.mark.parametrize("count", [2, 3])
def test_of_any_trainers_that_have_saved_exactly_one_goes_on(count):
    chance = random.Random(count)
    for _ in range(1000):
        ids = iter([f"{each}:train:0" for each in chance.sample(range(9), 9)])
        made = [trainer(chance, number, ids) for number in range(count)]
        rows = [each for _, some in made for each in some]
        chance.shuffle(rows)

        found = [verdict(rows, holder) for holder, _ in made]

        assert found.count(None) == 1, (rows, found)


@pytest.mark.parametrize("roots", [("r0", "r0", "r0"), ("r0", "r1", "r2")], ids=["one", "many"])
@pytest.mark.parametrize("saved", [*itertools.product([True, False], repeat=3)], ids=str)
def test_of_those_that_began_at_the_same_moment_one_goes_on_whatever_is_saved(saved, roots):
    for order in itertools.permutations(range(3)):
        rows, holders = [], []
        for number, (root, is_saved) in enumerate(zip(roots, saved, strict=True)):
            run_id, owner = f"{order[number]}:train:0", f"owner{number}"
            rows.append(row(run_id, owner, 1, saved=is_saved, root=root))
            holders.append(Holder(owner, root, "sft-7", run_id, 1))

        assert [verdict(rows, each) for each in holders].count(None) == 1
