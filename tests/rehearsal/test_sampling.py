"""Sampling with the official SDK, whichever version is installed, against the rehearsal server."""

from __future__ import annotations

import asyncio
import inspect
import math
import warnings

import numpy as np
import pytest
import tinker
from support.rehearsal_http import Client

from tinkex.rehearsal import RehearsalServer, batch
from tinkex.rehearsal.engine.model import VOCABULARY

WAIT = 20.0
ADAM = tinker.AdamParams(learning_rate=0.05)
PROMPT = tinker.ModelInput.from_ints([3, 1, 4])

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def done(value):
    """Wait for a client where the SDK gives a future of one."""
    return value.result() if hasattr(value, "result") else value


def end(service):
    if "status" in inspect.signature(getattr(service, "close", end)).parameters:
        service.close("success").result(WAIT)
    else:
        service.holder.close()


@pytest.fixture
def server():
    with RehearsalServer(seed=7) as made:
        yield made


@pytest.fixture
def service(server):
    made = tinker.ServiceClient(base_url=server.url, api_key=server.api_key)
    yield made
    end(made)


@pytest.fixture
def client(service):
    return done(service.create_lora_training_client(base_model="any", rank=8, seed=3))


def train(client, steps):
    for step in steps:
        client.forward_backward(batch(step), "cross_entropy").result(timeout=WAIT)
        client.optim_step(ADAM).result(timeout=WAIT)


def sampler_of(client, *args, **options):
    return done(client.save_weights_and_get_sampling_client(*args, **options))


def sample(sampler, *, count=1, prompt=PROMPT, **params):
    params = tinker.SamplingParams(**{"max_tokens": 8, "seed": 5, **params})
    answer = sampler.sample(prompt=prompt, num_samples=count, sampling_params=params)
    return answer.result(timeout=WAIT).sequences


def tokens(sampler, **params):
    return [list(one.tokens) for one in sample(sampler, **params)]


def logprobs_in_training(client, sequence):
    """What the training client says of the tokens that were sampled after `PROMPT`."""
    whole = [*PROMPT.to_ints(), *sequence]
    inputs = {"target_tokens": np.array(whole[1:]), "weights": np.ones(len(whole) - 1, np.float32)}
    datum = tinker.Datum(model_input=tinker.ModelInput.from_ints(whole[:-1]), loss_fn_inputs=inputs)
    output = client.forward([datum], "cross_entropy").result(timeout=WAIT)
    return output.loss_fn_outputs[0]["logprobs"].data


def test_samples_are_of_the_weights_at_the_time_of_the_save(client):
    train(client, range(3))
    before = sampler_of(client)
    (one,) = sample(before)

    logprobs = logprobs_in_training(client, one.tokens)
    train(client, range(3, 12))
    after = sampler_of(client)

    assert len(one.tokens) == 8
    assert one.stop_reason == "length"
    assert list(one.logprobs) == pytest.approx(list(logprobs)[-8:], abs=1e-6)
    assert tokens(before) == [list(one.tokens)]
    assert tokens(after, count=4) != tokens(before, count=4)


def test_a_seed_repeats_its_samples_however_many_there_are(client):
    sampler = sampler_of(client)

    four = tokens(sampler, count=4)

    assert len({tuple(each) for each in four}) == 4
    assert tokens(sampler, count=4) == four
    assert tokens(sampler, count=2) == four[:2]
    assert tokens(sampler, count=4, seed=6) != four
    assert tokens(sampler, count=4, seed=-5) != four


def test_without_a_seed_requests_differ_and_a_rehearsal_can_be_repeated():
    def twice():
        with RehearsalServer(seed=7) as server:
            service = tinker.ServiceClient(base_url=server.url, api_key=server.api_key)
            made = service.create_lora_training_client(base_model="any", rank=8, seed=3)
            sampler = sampler_of(done(made))
            found = tokens(sampler, seed=None), tokens(sampler, seed=None)
            end(service)
            return found

    first, second = twice()

    assert first != second
    assert twice() == (first, second)


def test_all_that_shapes_a_sample_counts(client):
    train(client, range(20))
    sampler = sampler_of(client)

    greedy = tokens(sampler, count=3, temperature=0.0)
    assert greedy == [greedy[0]] * 3
    assert tokens(sampler, top_k=1) == greedy[:1]
    assert tokens(sampler, top_p=1e-6) == greedy[:1]
    wild = tokens(sampler, count=8, temperature=50.0)
    assert len({token for each in wild for token in each}) > VOCABULARY / 3
    stop = greedy[0][2]
    (stopped,) = sample(sampler, temperature=0.0, stop=[stop])
    assert stopped.stop_reason == "stop"
    assert list(stopped.tokens) == greedy[0][: greedy[0].index(stop) + 1]
    (longest,) = tokens(sampler, max_tokens=None)
    assert len(longest) == 512 - 3


def test_samples_follow_the_probabilities_of_the_model(client):
    train(client, range(30))
    sampler = sampler_of(client)

    drawn = sample(sampler, count=1000, max_tokens=1, temperature=1.0)

    first = [one.tokens[0] for one in drawn]
    for token in set(first):
        odds = math.exp(next(one.logprobs[0] for one in drawn if one.tokens[0] == token))
        spread = math.sqrt(odds * (1 - odds) / 1000)
        assert abs(first.count(token) / 1000 - odds) < 5 * spread + 1e-9


def test_the_log_probabilities_of_a_prompt_are_those_of_training(client):
    train(client, range(2))
    sampler = sampler_of(client)
    text = [*PROMPT.to_ints(), 15, 9, 2]

    found = sampler.compute_logprobs(tinker.ModelInput.from_ints(text)).result(timeout=WAIT)

    expected = list(logprobs_in_training(client, text[3:]))
    assert found[0] is None
    assert found[1:] == pytest.approx(expected, abs=1e-6)
    if "prompt_logprobs_last_n" in inspect.signature(sampler.compute_logprobs).parameters:
        last = sampler.compute_logprobs(tinker.ModelInput.from_ints(text), 2).result(timeout=WAIT)
        assert last[:4] == [None] * 4
        assert last[4:] == found[4:]


def test_a_sampling_client_can_be_made_from_a_saved_checkpoint(server, service, client):
    train(client, range(3))
    path = client.save_weights_for_sampler("s3").result(timeout=WAIT).path
    direct = sampler_of(client)
    train(client, range(3, 6))

    loaded = done(service.create_sampling_client(model_path=path))
    base = done(service.create_sampling_client(base_model="any"))

    assert tokens(loaded, count=4) == tokens(direct, count=4) != tokens(base, count=4)
    assert done(loaded.get_base_model()) == "any"
    # What a sampling client samples from is no checkpoint unless it was saved under a name.
    assert [one.name for one in server.run(client.model_id).checkpoints] == ["s3"]


def test_a_name_makes_no_difference(client):
    assert tokens(sampler_of(client, name="mine")) == tokens(sampler_of(client))


def test_sampling_works_on_an_event_loop(client):
    async def play():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = await client.save_weights_and_get_sampling_client_async()
            params = tinker.SamplingParams(max_tokens=8, seed=5)
            asked = [sampler.sample_async(PROMPT, 1, params) for _ in range(3)]
            return [list(one.sequences[0].tokens) for one in await asyncio.gather(*asked)]

    assert asyncio.run(play()) == tokens(sampler_of(client)) * 3


def test_each_sequence_has_an_id_of_its_own(client):
    sampler = sampler_of(client)

    ids = [getattr(one, "sequence_id", None) for _ in range(2) for one in sample(sampler, count=2)]

    if ids[0] is not None:
        assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"stop": ["\n"]}, "no tokenizer"),
        ({"temperature": -1.0}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(client, params, complaint):
    with pytest.raises(tinker.BadRequestError, match=complaint):
        sample(sampler_of(client), **params)


def test_a_sampling_client_cannot_be_made_of_nothing(service, client):
    with pytest.raises(tinker.NotFoundError, match="not found"):
        path = f"tinker://{client.model_id}/sampler_weights/never"
        done(service.create_sampling_client(model_path=path))


def test_importance_sampling_raises_what_was_good(server, client):
    def step(number):
        sampler = sampler_of(client)
        data = []
        for one in sample(sampler, count=16, seed=number, max_tokens=16):
            whole = [*PROMPT.to_ints(), *one.tokens]
            before = len(PROMPT.to_ints()) - 1
            rewards = [0.5 if token < VOCABULARY // 2 else -0.5 for token in one.tokens]
            inputs = {
                "target_tokens": np.array(whole[1:]),
                "logprobs": np.array([0.0] * before + list(one.logprobs), np.float32),
                "advantages": np.array([0.0] * before + rewards, np.float32),
            }
            model_input = tinker.ModelInput.from_ints(whole[:-1])
            data.append(tinker.Datum(model_input=model_input, loss_fn_inputs=inputs))
        client.forward_backward(data, "importance_sampling").result(timeout=WAIT)
        client.optim_step(tinker.AdamParams(learning_rate=0.3)).result(timeout=WAIT)

    def reward():
        drawn = sample(sampler_of(client), count=64, seed=99, max_tokens=16)
        return np.mean([token < VOCABULARY // 2 for one in drawn for token in one.tokens])

    before = reward()
    for number in range(15):
        step(number)

    assert reward() > before + 0.2
    assert not any(math.isnan(one.loss) for one in server.steps())


def test_samples_can_be_read_as_json():
    with RehearsalServer() as server:
        client = Client(server)
        run = client.run()
        made = client.result("save_weights_for_sampler", model_id=run, sampling_session_seq_id=0)
        sampler = made.json()["sampling_session_id"]
        prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]}
        body = {"sampling_session_id": sampler, "seq_id": 0, "prompt": prompt, "num_samples": 2}

        told = client.result(
            "asample", **body, sampling_params={"max_tokens": 3}, prompt_logprobs=True
        ).json()

    assert [len(one["tokens"]) for one in told["sequences"]] == [3, 3]
    assert told["prompt_logprobs"][0] is None
    assert told["prompt_logprobs"][1] < 0.0
