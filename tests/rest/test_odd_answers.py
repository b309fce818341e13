"""What the REST client makes of answers in which a field is not what it should be."""

from __future__ import annotations

import json

from support.http_servers import PATH, RUN, RUN_JSON, as_json, config_of, failure

from tinkex.errors import ApiResponseError


def test_a_run_is_read_without_what_does_not_fit(stub, client):
    checkpoint = {"tinker_path": PATH, "size_bytes": 1.5, "public": True}
    odd = {"corrupted": True, "lora_rank": "32", "last_checkpoint": checkpoint}
    stub.will(as_json({**RUN_JSON, **odd}))

    run = client.get_training_run(config_of(stub), RUN)

    assert (run.corrupted, run.base_model, run.lora_rank) == (True, "m", None)
    assert run.last_checkpoint.tinker_path == PATH
    assert (run.last_checkpoint.size_bytes, run.last_checkpoint.public) == (None, True)


def test_a_number_with_more_digits_than_python_reads_hides_nothing_else(stub, client):
    text = f'{{"training_run_id":"{RUN}","lora_rank":{5000 * "1"},"corrupted":true}}'
    page = f'{{"training_runs":[{text}]}}'
    stub.will(*[(200, {}, each.encode()) for each in (text, page)])

    run = client.get_training_run(config_of(stub), RUN)
    (part,) = client.read_training_runs(config_of(stub), limit=9, offset=0).parts(9)

    assert (run.corrupted, run.lora_rank) == (True, None)
    assert [(row["training_run_id"], row["corrupted"]) for row, _ in part] == [(RUN, True)]


def test_a_row_without_a_path_is_not_in_the_list_of_checkpoints(stub, client):
    rows = [{"tinker_path": 5}, {"tinker_path": PATH, "time": "yesterday", "size_bytes": 3}]
    stub.will(as_json({"checkpoints": rows}))

    (found,) = client.list_checkpoints(config_of(stub), RUN)

    assert (found.tinker_path, found.time, found.size_bytes) == (PATH, None, 3)


def test_a_list_in_which_no_row_has_a_path_is_no_list_of_checkpoints(stub, client):
    stub.will(as_json({"checkpoints": [{"tinker_path": 5}, {"name": json.dumps(PATH)}]}))

    error = failure(lambda: client.list_checkpoints(config_of(stub), RUN), ApiResponseError)

    assert "tinker_path" in str(error)
