"""The shapes: training loops as users write them, each a function of a handle and a script.

A shape is called again after an interruption, as a cell is run again. It returns when the whole
training is done.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque

import numpy as np
import tinker

from tinkex.rehearsal import batch

TOTAL = 12
EVERY = 2
ADAM = tinker.AdamParams(learning_rate=0.05)
LOSS = "cross_entropy"

SHAPES = {}


def shape(function):
    """Add a loop to `SHAPES`, under its name in words."""
    words = function.__name__.replace("_", " ")
    SHAPES[words.replace("rl ", "RL ")] = function
    return function


def save_every(segment, step, every=EVERY, **options):
    """Save after a step, where it is time."""
    if (step + 1) % every == 0:
        segment.save_state(f"{step + 1:06d}", step=step + 1, **options)


def first(segment):
    """Save the beginning, so that there is something to go back to."""
    if segment.start_step == 0:
        segment.save_state("000000", step=0)


def submit(client, step):
    """Both requests of a step."""
    return client.forward_backward(batch(step), LOSS), client.optim_step(ADAM)


@shape
def sync(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                forward, update = submit(segment.client, step)
                forward.result(), update.result()
                save_every(segment, step)


def ahead(run, count):
    for segment in run.segments():
        with segment:
            first(segment)
            waiting = deque()
            for step in segment.steps(TOTAL):
                waiting.extend(submit(segment.client, step))
                while len(waiting) > 2 * count:
                    waiting.popleft().result()
                save_every(segment, step)
            for future in waiting:
                future.result()


@shape
def submit_ahead_1(run):
    ahead(run, 1)


@shape
def submit_ahead_3(run):
    ahead(run, 3)


@shape
def accumulation(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                futures = [
                    segment.client.forward_backward(batch(100 * step + part), LOSS)
                    for part in range(1 + step % 3)
                ]
                futures.append(segment.client.optim_step(ADAM))
                for future in futures:
                    future.result()
                save_every(segment, step)


@shape
def two_optimizer_steps(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                for part in range(2):
                    for future in submit(segment.client, 2 * step + part):
                        future.result()
                save_every(segment, step)


def sampled_batch(client, step):
    """What the present weights say to the prompts of a step, with their rewards."""
    made = client.save_weights_and_get_sampling_client()
    sampler = made.result() if hasattr(made, "result") else made
    params = tinker.SamplingParams(max_tokens=8, seed=step)
    prompts = [datum.model_input.to_ints()[:4] for datum in batch(step, size=4)]
    answers = [sampler.sample(tinker.ModelInput.from_ints(each), 2, params) for each in prompts]
    return [
        scored(prompt, sequence)
        for prompt, answer in zip(prompts, answers, strict=True)
        for sequence in answer.result().sequences
    ]


def scored(prompt, sequence):
    """A sampled sequence as training data: a token of the vocabulary's lower half is good."""
    tokens, before = [*prompt, *sequence.tokens], [0.0] * (len(prompt) - 1)
    rewards = [1.0 if token < 32 else -1.0 for token in sequence.tokens]
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.array(tokens[1:]),
            "logprobs": np.array(before + list(sequence.logprobs), np.float32),
            "advantages": np.array(before + rewards, np.float32),
        },
    )


@shape
def rl_with_sampling(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                data = sampled_batch(segment.client, step)
                forward = segment.client.forward_backward(data, "importance_sampling")
                update = segment.client.optim_step(ADAM)
                forward.result(), update.result()
                save_every(segment, step)


@shape
def evaluation_inside(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                for future in submit(segment.client, step):
                    future.result()
                if step % 3 == 0:
                    segment.client.forward(batch(1000), LOSS).result()
                save_every(segment, step)


@shape
def early_break(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(10 * TOTAL):
                # Before the step: the loop before may have been interrupted after its last one.
                if step == TOTAL:
                    break
                for future in submit(segment.client, step):
                    future.result()
                save_every(segment, step)


@shape
def retry_inside(run):
    def patiently(segment, step):
        for attempt in range(3):
            try:
                for future in submit(segment.client, step):
                    future.result()
                return
            except Exception:
                if attempt == 2:
                    raise

    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                patiently(segment, step)
                save_every(segment, step)


class Bar:
    """Goes through steps as a progress bar does."""

    def __init__(self, steps):
        self._steps = steps

    def __iter__(self):
        for step in self._steps:
            yield step
            self.done = step


@shape
def progress_bar(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in Bar(segment.steps(TOTAL)):
                for future in submit(segment.client, step):
                    future.result()
                save_every(segment, step)


@shape
def client_in_a_variable(run):
    for segment in run.segments():
        with segment:
            first(segment)
            client = segment.client
            for step in segment.steps(TOTAL):
                for future in submit(client, step):
                    future.result()
                save_every(segment, step)


@shape
def helper_function(run):
    def train_step(client, step):
        forward, update = submit(client, step)
        return forward.result(), update.result()

    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                train_step(segment.client, step)
                save_every(segment, step)


@shape
def lookahead(run):
    for segment in run.segments():
        with segment:
            first(segment)
            steps = segment.steps(TOTAL)
            step = next(steps, None)
            while step is not None:
                following = next(steps, None)
                for future in submit(segment.client, step):
                    future.result()
                save_every(segment, step)
                step = following


@shape
def list_of_steps(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in list(segment.steps(TOTAL)):
                for future in submit(segment.client, step):
                    future.result()
                save_every(segment, step)


@shape
def generator(run):
    def losses():
        for segment in run.segments():
            with segment:
                first(segment)
                for step in segment.steps(TOTAL):
                    forward, update = submit(segment.client, step)
                    forward.result(), update.result()
                    save_every(segment, step)
                    yield step

    for _ in losses():
        pass


class Loader:
    """Data that is read in order, and can begin at a position."""

    def __init__(self, position):
        self.position = position

    def next(self):
        self.position += 1
        return batch(self.position - 1)


@shape
def data_loader(run):
    for segment in run.segments():
        loader = Loader((segment.data or {}).get("position", 0))
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                forward = segment.client.forward_backward(loader.next(), LOSS)
                update = segment.client.optim_step(ADAM)
                forward.result(), update.result()
                save_every(segment, step, data={"position": loader.position})


def on_a_loop(function):
    """Have a coroutine function run on an event loop of its own."""

    @functools.wraps(function)
    def called(run):
        asyncio.run(function(run))

    return called


async def save_every_async(segment, step):
    if (step + 1) % EVERY == 0:
        await segment.save_state_async(f"{step + 1:06d}", step=step + 1)


async def first_async(segment):
    if segment.start_step == 0:
        await segment.save_state_async("000000", step=0)


@shape
@on_a_loop
async def event_loop(run):
    async for segment in run.segments():
        async with segment:
            await first_async(segment)
            for step in segment.steps(TOTAL):
                forward = await segment.client.forward_backward_async(batch(step), LOSS)
                update = await segment.client.optim_step_async(ADAM)
                await forward
                await update.result_async()
                await save_every_async(segment, step)


async def wait_for(future):
    return await future


@shape
@on_a_loop
async def task_group(run):
    async for segment in run.segments():
        async with segment:
            await first_async(segment)
            for step in segment.steps(TOTAL):
                futures = submit(segment.client, step)
                async with asyncio.TaskGroup() as group:
                    for future in futures:
                        group.create_task(wait_for(future))
                await save_every_async(segment, step)


@shape
@on_a_loop
async def gather(run):
    async for segment in run.segments():
        async with segment:
            await first_async(segment)
            for step in segment.steps(TOTAL):
                await asyncio.gather(*submit(segment.client, step))
                await save_every_async(segment, step)


@shape
def notebook_cell(run):
    sync(run)
    sync(run)  # it is run once more, though all is done


@shape
def rolling_name(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                for future in submit(segment.client, step):
                    future.result()
                if (step + 1) % EVERY == 0:
                    options = {"overwrite": True} if OVERWRITES else {}
                    name = "latest" if OVERWRITES else f"{step + 1:06d}"
                    segment.save_state(name, step=step + 1, **options)


#: Whether this version of the SDK can save a name again.
OVERWRITES = "overwrite" in tinker.TrainingClient.save_state.__code__.co_varnames


@shape
def save_at_the_top(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                if step % EVERY == 0 and step != segment.start_step:
                    segment.save_state(f"{step:06d}", step=step)
                for future in submit(segment.client, step):
                    future.result()
            segment.save_state(f"{TOTAL:06d}", step=TOTAL)


@shape
def save_behind(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                for future in submit(segment.client, step):
                    future.result()
                if step % EVERY == 1:
                    segment.save_state(f"{step:06d}", step=step)


@shape
def swallowed_errors(run):
    for segment in run.segments():
        with segment:
            first(segment)
            for step in segment.steps(TOTAL):
                try:
                    for future in submit(segment.client, step):
                        future.result()
                    save_every(segment, step)
                except Exception:
                    continue
