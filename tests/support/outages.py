"""A server that goes down and comes back, with a run that is trained on it."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import SimpleNamespace

from tinkex import Policy
from tinkex.testing import FakeServiceClient, FakeTrainingClient

from .recorder import PATIENCE
from .world import RUN


class Listener:
    """Accepts connections on a port of its own, and can go down and come back."""

    def __init__(self, *, closes=False):
        self._closes = closes
        self.port = 0
        self.accepted = threading.Semaphore(0)
        self._open = []
        self.start()

    def start(self):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def _accept(self, listening):
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._open.append(connection)
            if self._closes:
                connection.close()
            self.accepted.release()

    def stop(self):
        with suppress(OSError):  # it is down already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def cut(self):
        """Close what is open, and go on to accept."""
        for connection in self._open:
            connection.close()

    def wait_for_connections(self, count=1):
        for _ in range(count):
            assert self.accepted.acquire(timeout=PATIENCE)


class Rest:
    """A rest module of a server that answers, or does not."""

    def __init__(self):
        self.is_up = True
        self.error = ConnectionRefusedError("no server")

    def get_training_run(self, config, run_id):
        if not self.is_up:
            raise self.error
        return {"training_run_id": run_id}


class Site:
    """A run on that server, with a monitor on real threads."""

    def __init__(self, bench, listener, client=None, **policy):
        self.listener, self.rest, self.service = listener, Rest(), FakeServiceClient()
        self.service._base_url = f"http://127.0.0.1:{listener.port}"
        policy = Policy(**{"enabled": True, "poll_interval": 1000.0, **policy})
        self.monitor = bench.monitor(policy, rest_module=self.rest)
        self.client = client or FakeTrainingClient(RUN)
        self.run = self.monitor.monitor_run(RUN, self.service, client=self.client)

    def go_down(self):
        """Be gone; return when that is noticed."""
        self.listener.wait_for_connections()
        with heard("requests of its runs wait") as noticed:
            self.rest.is_up = False
            self.listener.stop()
            assert noticed.wait(PATIENCE)

    def come_back(self):
        self.listener.start()
        self.rest.is_up = True


@contextmanager
def heard(text):
    """An event that is set when a line with this text is logged."""
    told = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                told.set()

    handler = Handler()
    logging.getLogger("tinkex").addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger("tinkex").removeHandler(handler)


class Weights(FakeTrainingClient):
    """A client whose log-probabilities depend on how many updates its weights have had."""

    def __init__(self, model_id=RUN, path=None, updates=0):
        super().__init__(model_id, path)
        self.updates = updates
        self.saved = {}

    def forward(self, data, loss_fn="cross_entropy"):
        return self._answer("forward", data, self._output())

    def forward_backward(self, data, loss_fn="cross_entropy"):
        return self._answer("forward_backward", data, self._output())

    async def forward_backward_async(self, data, loss_fn="cross_entropy"):
        return self.forward_backward(data, loss_fn)

    def optim_step(self, params=None):
        self.updates += 1
        return super().optim_step(params)

    def save_state(self, name, user_metadata=None):
        self.saved[name] = self.updates
        return super().save_state(name, user_metadata)

    def _output(self):
        tensor = SimpleNamespace(data=[-0.1 * self.updates, -0.5])
        return SimpleNamespace(loss_fn_outputs=[{"logprobs": tensor}])


class SlowSaves(Weights):
    """A client whose saves are answered when it is told to."""

    def __init__(self):
        super().__init__()
        self.answer, self.is_saving = None, threading.Event()

    def save_state(self, name, user_metadata=None):
        done = super().save_state(name, user_metadata)
        if name != "late":
            return done
        self.answer, self.answered = Future(), done
        self.is_saving.set()
        return self.answer


def train(segment, steps, *, save=None):
    """Train steps, and save at the end."""
    for number in range(steps):
        segment.client.forward_backward([number]).result()
        segment.client.optim_step().result()
    if save is not None:
        segment.save_state(save, step=steps)


def saved_and_trained(segment):
    """Two saves and a step more: at 2, at 4, 5 updates."""
    for step in segment.steps(5):
        train(segment, 1)
        if step in (1, 3):
            segment.save_state(f"at-{step + 1}", step=step + 1)
