"""The model that rehearsals train: exact, in whatever pieces, and kept whole in checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tinkex.rehearsal.engine.corpus import SEQUENCE_LENGTH, sentences
from tinkex.rehearsal.engine.model import VOCABULARY, AdamSettings, Example, LanguageModel
from tinkex.rehearsal.engine.records import Refusal
from tinkex.rehearsal.engine.store import CheckpointStore

ADAM = AdamSettings(learning_rate=0.05)
PATH = "tinker://session:train:0/weights/c1"


def examples(step, size=8):
    return tuple(
        Example(tokens=row[:-1], targets=row[1:], weights=np.ones(SEQUENCE_LENGTH))
        for row in sentences(step, seed=7, size=size)
    )


def train(model, steps):
    losses = []
    for step in steps:
        model.forward(examples(step), backward=True)
        losses.append(model.apply(ADAM))
    return losses


def test_a_fresh_model_is_about_as_good_as_guessing():
    report = LanguageModel(seed=1).forward(examples(0), backward=False)

    assert report.loss_sum / report.weight_sum == pytest.approx(math.log(VOCABULARY), abs=0.1)


def test_training_lowers_the_loss():
    losses = train(LanguageModel(seed=1), range(60))

    assert losses[-1] < 1.5 < 4.0 < losses[0]


def test_the_seed_decides_the_initial_weights():
    first, same, other = (LanguageModel(seed).state.weights for seed in (1, 1, 2))

    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_gradient_of_samples_is_the_slope_of_their_loss():
    model, tokens = LanguageModel(1), np.array([1, 2, 3, 2])
    random = np.random.default_rng(4)
    sampled, advantages = random.normal(-4.0, 0.3, 4), random.normal(0.0, 1.0, 4)
    example = Example(tokens=tokens, targets=tokens[::-1], weights=advantages, sampled=sampled)

    def loss_near(place, distance):
        moved, state = LanguageModel(1), model.state
        weights = state.weights.copy()
        weights[place] += distance
        moved.restore(replace(state, weights=weights), optimizer=True)
        return moved.forward([example], backward=False).loss_sum

    model.forward([example], backward=True)
    before = model.state.weights
    # With beta1 at 0 the first moment is the gradient itself.
    model.apply(AdamSettings(learning_rate=0.0, beta1=0.0))

    assert np.array_equal(model.state.weights, before)
    for place in [(1, 2), (2, 3), (2, 2), (3, 5), (7, 7)]:
        slope = (loss_near(place, 1e-5) - loss_near(place, -1e-5)) / 2e-5
        assert model.state.first_moment[place] == pytest.approx(slope, abs=1e-7)


def test_weights_of_zero_do_not_count():
    tokens = np.arange(4)
    half = Example(tokens=tokens, targets=tokens, weights=np.array([1.0, 1.0, 0.0, 0.0]))
    whole = Example(tokens=tokens[:2], targets=tokens[:2], weights=np.ones(2))

    one, other = (LanguageModel(1).forward([it], backward=False) for it in (half, whole))

    assert one.loss_sum == pytest.approx(other.loss_sum)
    assert one.weight_sum == other.weight_sum == 2.0


def test_the_gradient_is_the_slope_of_the_loss():
    batch = examples(0, size=1)
    token, target = int(batch[0].tokens[0]), int(batch[0].targets[0])
    model = LanguageModel(seed=1)
    before = model.forward(batch, backward=True).loss_sum

    # With no momentum, a huge eps and this rate the step is the gradient, scaled down.
    scale = 1e6
    model.apply(AdamSettings(learning_rate=1.0, beta1=0.0, beta2=0.0, eps=scale))
    after = model.forward(batch, backward=False).loss_sum
    moved = model.state.weights - LanguageModel(seed=1).state.weights

    assert moved[token, target] > 0.0
    assert after - before == pytest.approx(-scale * float((moved**2).sum()), rel=1e-3)


def test_two_forward_backwards_add_up_to_one_step():
    batch = examples(0)
    whole, parts = LanguageModel(seed=1), LanguageModel(seed=1)

    whole.forward(batch, backward=True)
    parts.forward(batch[:3], backward=True)
    parts.forward(batch[3:], backward=True)

    assert parts.apply(ADAM) == pytest.approx(whole.apply(ADAM))
    assert np.allclose(parts.state.weights, whole.state.weights)


def test_a_gradient_is_clipped_to_its_norm():
    clipped = LanguageModel(seed=1)
    clipped.forward(examples(0), backward=True)
    clipped.apply(AdamSettings(learning_rate=1.0, beta1=0.0, grad_clip_norm=0.5))

    assert float(np.sqrt((clipped.state.first_moment**2).sum())) == pytest.approx(0.5)


def test_restored_with_the_optimizer_it_goes_on_bit_exactly(tmp_path):
    store = CheckpointStore(tmp_path)
    whole = LanguageModel(seed=1)
    train(whole, range(10))
    store.write(PATH, whole.state)
    expected = train(whole, range(10, 20))

    resumed = LanguageModel(seed=99)
    resumed.restore(store.read(PATH), optimizer=True)

    assert train(resumed, range(10, 20)) == expected
    assert np.array_equal(resumed.state.weights, whole.state.weights)
    assert resumed.state.steps == 20


def test_restored_without_the_optimizer_it_starts_alike_and_goes_another_way(tmp_path):
    store = CheckpointStore(tmp_path)
    whole = LanguageModel(seed=1)
    train(whole, range(10))
    store.write(PATH, whole.state)
    expected = train(whole, range(10, 20))

    resumed = LanguageModel(seed=99)
    resumed.restore(store.read(PATH), optimizer=False)
    losses = train(resumed, range(10, 20))

    assert losses[0] == expected[0]
    assert losses[1:] != expected[1:]
    assert (resumed.state.steps, resumed.state.adam_steps) == (20, 10)


def test_a_truncated_checkpoint_does_not_load(tmp_path):
    store = CheckpointStore(tmp_path)
    size = store.write(PATH, LanguageModel(seed=1).state)

    store.truncate(PATH)

    assert store.file_of(PATH).stat().st_size == size // 2
    with pytest.raises(Refusal) as caught:
        store.read(PATH)
    assert caught.value.status == 422
    assert "deserializing header" in str(caught.value.detail)


def test_a_store_of_its_own_directory_deletes_it():
    store = CheckpointStore(None)
    store.write(PATH, LanguageModel(seed=1).state)
    directory = store.file_of(PATH).parents[2]

    store.close()

    assert not directory.exists()


def test_sequences_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        Example(tokens=np.arange(3), targets=np.arange(2), weights=np.ones(3))


def test_the_corpus_repeats_by_seed_and_step():
    assert np.array_equal(sentences(3, 1), sentences(3, 1))
    assert not np.array_equal(sentences(3, 1), sentences(4, 1))
    assert not np.array_equal(sentences(3, 1), sentences(3, 2))
