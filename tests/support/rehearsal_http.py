"""A client of the rehearsal server over plain HTTP, for its tests."""

from __future__ import annotations

import requests

from tinkex.rehearsal.engine.corpus import sentences

WAIT = 10.0


class Client:
    """A client that speaks JSON and chooses its sequence numbers itself."""

    def __init__(self, server, key=None):
        self.server = server
        self.http = requests.Session()
        self.http.headers["X-API-Key"] = key or server.api_key

    def get(self, path, **options):
        return self.http.get(f"{self.server.url}/api/v1/{path}", timeout=WAIT, **options)

    def post(self, path, /, **body):
        return self.http.post(f"{self.server.url}/api/v1/{path}", json=body, timeout=WAIT)

    def result(self, path, /, **body):
        answer = self.post(path, **body)
        assert answer.status_code == 200, answer.text
        return self.retrieve(answer.json()["request_id"])

    def retrieve(self, request_id, timeout=WAIT):
        url = f"{self.server.url}/api/v1/retrieve_future"
        return self.http.post(url, json={"request_id": request_id}, timeout=timeout)

    def session(self):
        body = {"tags": [], "user_metadata": {}, "sdk_version": "0"}
        return self.post("create_session", **body).json()["session_id"]

    def run(self, session=None, number=0, **more):
        body = {"base_model": "any", "lora_config": {"rank": 8, "seed": 1}, **more}
        session = session or self.session()
        made = self.result("create_model", session_id=session, model_seq_id=number, **body)
        return made.json()["model_id"]

    def forward_backward(self, run, sequence=None, step=0):
        work = {"data": data(step), "loss_fn": "cross_entropy"}
        body = {"model_id": run, "seq_id": sequence, "forward_backward_input": work}
        return self.post("forward_backward", **body)

    def optim_step(self, run, sequence=None):
        adam = {"learning_rate": 0.05}
        return self.post("optim_step", model_id=run, seq_id=sequence, adam_params=adam)

    def train(self, run, steps):
        for step in range(steps):
            self.forward_backward(run, step=step).raise_for_status()
            self.optim_step(run).raise_for_status()

    def save(self, run, name, **more):
        saved = self.result("save_weights", model_id=run, path=name, **more)
        assert saved.status_code == 200, saved.text
        return saved.json()["path"]


def data(step):
    return [
        {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": row[:-1].tolist()}]},
            "loss_fn_inputs": {"target_tokens": {"data": row[1:].tolist(), "dtype": "int64"}},
        }
        for row in sentences(step, size=2)
    ]
