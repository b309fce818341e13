"""The guide of tinker-cookbook: its code runs, and the server's log is an uninterrupted run's."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import tinker

from tinkex.rehearsal import batch
from tinkex.rehearsal.stage import Stage
from tinkex.rehearsal.step_log import history

if "TINKEX_COOKBOOK" not in os.environ:  # where it must be there, it is not passed over
    pytest.importorskip("tinker_cookbook", reason="tinker-cookbook is not installed")
    pytest.importorskip("torch", reason="neither torch nor its stand-in is there")

import chz
from tinker_cookbook import tokenizer_utils
from tinker_cookbook.checkpoint_utils import get_last_checkpoint
from tinker_cookbook.supervised import train
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder
from tinker_cookbook.utils import cost_estimation

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

PAGE = Path(__file__).parents[2] / "docs" / "cookbook.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)

BATCHES = 6
EPOCHS = 2
TOTAL = BATCHES * EPOCHS
SAVE_EVERY = 4
RATE = 0.05
SEED = 3


def nothing(step):
    """No mishap."""


def interrupt():
    raise KeyboardInterrupt


class Tokenizer:
    """Words are numbers; the cookbook counts their letters."""

    def decode(self, tokens, **_):
        return " ".join(map(str, tokens))


class Batches(SupervisedDataset):
    """Batches that differ from epoch to epoch; `before` is called before some is given."""

    def __init__(self, before=nothing):
        self.before = before

    def __len__(self):
        return BATCHES

    def set_epoch(self, seed=0):
        self.epoch = seed

    def get_batch(self, index):
        self.before(self.epoch * BATCHES + index)
        return batch(index, self.epoch)


@chz.chz
class Builder(SupervisedDatasetBuilder):
    before: object

    def __call__(self):
        return Batches(self.before), None


class Once:
    """Does something before a step's batch is given, the first time."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def __call__(self, step):
        if step == self.step:
            self.step = None
            self.do()


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No prices from the network, no tokenizer from a hub; the log's handlers stay as they were."""
    monkeypatch.setattr(cost_estimation, "_pricing_fetched", True)
    tokenizer_utils.register_tokenizer("any", Tokenizer)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    tokenizer_utils.unregister_tokenizer("any")


@pytest.fixture
def stage(monkeypatch):
    with Stage() as made:
        for name, value in made.server.environ.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def guide():
    """The module that the guide's code makes; its second snippet is run by a test of its own."""
    module = sys.modules["guide"] = ModuleType("guide")
    for snippet in (SNIPPETS[0], SNIPPETS[2]):
        exec(compile(snippet, str(PAGE), "exec", dont_inherit=True), vars(module))
    yield module
    del sys.modules["guide"]


def config_of(path, *, before=nothing, **options):
    options = {
        "log_path": str(path),
        "model_name": "any",
        "recipe_name": "a test",
        "dataset_builder": Builder(before=before),
        "learning_rate": RATE,
        "num_epochs": EPOCHS,
        "lora_rank": 4,
        "adam_eps": tinker.AdamParams().eps,
        "save_every": SAVE_EVERY,
        "eval_every": 0,
        "infrequent_eval_every": 0,
        **options,
    }
    return train.Config(**options)


def run_main(config):
    asyncio.run(train.main(config))


def new_client(stage):
    with warnings.catch_warnings(action="ignore"):
        return stage.service().create_lora_training_client("any", rank=4, seed=SEED).result()


def new_run(stage):
    client = new_client(stage)
    return stage.monitor(confirm_within=1.0).monitor_run(
        client.model_id, tinker.ServiceClient, client=client
    )


def until_done(loop):
    """Run a loop, and again after each interrupt, as a cell is run again."""
    for _ in range(3):
        try:
            return loop()
        except KeyboardInterrupt:
            continue
    raise AssertionError("it is interrupted again and again")


# What the guide says of the cookbook's own resume


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_cookbooks_own_resume_applies_steps_twice(tmp_path, stage, ahead):
    config = config_of(tmp_path, before=Once(9, interrupt), submit_ahead=ahead)

    until_done(lambda: run_main(config))

    run_id = stage.server.runs()[-1].run_id
    assert len(history(stage.server, run_id)) == TOTAL + 1 + ahead
    # What it logs does not tell.
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(TOTAL))


def test_the_cookbooks_own_resume_needs_its_newest_checkpoint(tmp_path, stage):
    config = config_of(tmp_path, before=Once(11, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run_main(config)
    stage.server.break_checkpoint(get_last_checkpoint(config.log_path).state_path)

    with pytest.raises(ValueError, match="deserializing"):
        run_main(config)


# What it says of ours


@pytest.fixture(params=["around", "own"])
def loop(request, guide, tmp_path):
    """One of the guide's loops: `loop(run, before, ahead)` trains it all."""

    def around(run, before=nothing, ahead=1):
        config = config_of(tmp_path, before=before, submit_ahead=ahead)
        asyncio.run(guide.fit(run, config, save_every=SAVE_EVERY))

    def own(run, before=nothing, ahead=1):
        options = {"epochs": EPOCHS, "rate": RATE, "save_every": SAVE_EVERY, "ahead": ahead}
        guide.train_all(run, Batches(before), **options)

    return {"around": around, "own": own}[request.param]


@pytest.fixture(scope="module")
def expected():
    """The history of plain calls of the SDK that nothing happens to."""
    with Stage() as stage:
        client = new_client(stage)
        for step in range(TOTAL):
            epoch, index = divmod(step, BATCHES)
            rate = RATE * (1 - step / TOTAL)
            client.forward_backward(batch(index, epoch), "cross_entropy")
            client.optim_step(tinker.AdamParams(learning_rate=rate)).result()
        return history(stage.server, client.model_id)


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("mode", ["fail", "hang", "broken checkpoint", "interrupt", "all"])
def test_with_tinkex_none_is(stage, expected, loop, mode, ahead):
    run = new_run(stage)
    before = [Once(6, interrupt)] if mode in ("interrupt", "all") else []
    if mode != "interrupt":
        stage.server.corrupt_at(
            run.run_id if mode != "all" else None,
            9,
            mode="hang" if mode == "hang" else "fail",
            break_newest=int(mode == "broken checkpoint"),
        )

    until_done(lambda: loop(run, lambda step: [each(step) for each in before], ahead))

    assert history(stage.server, run.run_id) == expected
    assert len(run.lineage) == (3 if mode == "all" else 2)


def test_before_anything_was_submitted_an_interrupt_costs_nothing(stage, expected, loop):
    run = new_run(stage)
    interrupted = Once(0, interrupt)

    until_done(lambda: loop(run, interrupted))

    assert history(stage.server, run.run_id) == expected
    assert len(run.lineage) == 1


def test_what_is_done_is_not_trained_again(stage, expected, loop):
    run = new_run(stage)
    loop(run)

    loop(run)

    assert history(stage.server, run.run_id) == expected
    assert len(stage.server.steps()) == TOTAL


def test_a_new_process_goes_on_where_the_one_before_was(tmp_path, stage, expected, guide):
    names = {**vars(guide), "config": config_of(tmp_path, before=Once(9, interrupt))}
    # The guide saves every 20 steps; here that is too seldom.
    begin = SNIPPETS[1].replace("save_every=20", f"save_every={SAVE_EVERY}")
    begin = begin.replace("lora_rank)", f"lora_rank, seed={SEED})")

    with pytest.raises(KeyboardInterrupt):
        exec(compile(begin, str(PAGE), "exec"), names)
    exec(compile(begin, str(PAGE), "exec"), names)

    assert history(stage.server, names["run"].run_id) == expected
    assert names["start_step"] == 8


def test_the_with_may_be_run_again(tmp_path, stage, expected, guide):
    names = {**vars(guide), "config": config_of(tmp_path, before=Once(9, interrupt))}
    begin = SNIPPETS[1].replace("save_every=20", f"save_every={SAVE_EVERY}")
    begin = begin.replace("lora_rank)", f"lora_rank, seed={SEED})")
    stage.server.corrupt_at(None, 6)

    with pytest.raises(KeyboardInterrupt):
        exec(compile(begin, str(PAGE), "exec"), names)
    exec(compile(begin[begin.index("with ") :], str(PAGE), "exec"), names)

    assert history(stage.server, names["run"].run_id) == expected


def test_the_snippet_that_begins_it_all_runs(tmp_path, stage, guide):
    names = {**vars(guide), "config": config_of(tmp_path)}

    exec(compile(SNIPPETS[1], str(PAGE), "exec"), names)

    assert len(history(stage.server, names["run"].run_id)) == TOTAL
