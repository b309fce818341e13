"""The training client of a segment: passes everything on, and knows what was submitted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NoReturn

from ..runs.effects import effect_of

if TYPE_CHECKING:
    from .requests import Order, Requests

#: Methods that ask, or make something beside the run: they go on when its run is lost.
_ASIDE = ("get_", "create_", "unload")

#: Methods that wait for the server in older versions of the SDK, instead of returning a future.
_MAY_BLOCK = ("save_weights_and_get_sampling_client",)


def bare(client: Any) -> Any:
    """The training client itself, where one of a segment stands for it."""
    return client.__dict__["_bare"] if type(client) is SegmentClient else client


class SegmentClient:
    """Stands for the training client of a segment; `isinstance` says that it is one.

    Its methods run on the training client itself. Requests raise `SegmentSupersededError` once
    the run is known to be corrupted or replaced; attributes, `get_info` and the like do not. In a
    forked child every call is a `MonitorStoppedError`. It can be neither copied nor pickled.

    Threads: as the training client's.
    """

    def __init__(self, bare: Any, requests: Requests) -> None:
        self.__dict__["_bare"], self.__dict__["_requests"] = bare, requests

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._bare)

    def __getattr__(self, name: str) -> Any:
        if name == "_bare":  # not made yet
            raise AttributeError(name)
        value = getattr(self._bare, name)
        if not callable(value) or isinstance(value, type) or name.startswith("_"):
            return value
        if name.startswith(_ASIDE):
            self._requests.check_home()
            return value
        # Kept, so that the next call finds it at once.
        self.__dict__[name] = method = self._request(name, value)
        return method

    def __setattr__(self, name: str, value: object) -> None:
        self.__dict__.pop(name, None)
        setattr(self._bare, name, value)

    def __repr__(self) -> str:
        return repr(self._bare)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("the client of a segment can be neither copied nor pickled")

    def _request(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        effect, requests = effect_of(name), self._requests

        # A decorator may hide it, as that of what newer versions of the SDK deprecate.
        if inspect.iscoroutinefunction(inspect.unwrap(method)):

            async def begun(order: Order, *args: Any, **kwargs: Any) -> Any:
                requests.begins(order)
                sent = requests.submit(effect, name, args, kwargs)
                answer = requests.send_async(partial(method, *args, **kwargs))
                return await requests.wrap(answer, sent)

            @wraps(method)
            def requested(*args: Any, **kwargs: Any) -> Any:
                return begun(requests.order(effect), *args, **kwargs)

            return requested

        may_block = name in _MAY_BLOCK

        @wraps(method)
        def requested_now(*args: Any, **kwargs: Any) -> Any:
            sent = requests.submit(effect, name, args, kwargs)
            if may_block:
                sending = partial(requests.send, effect, method, *args, **kwargs)
                return requests.wrap(requests.call(sending), sent)
            return requests.wrap(requests.send(effect, method, *args, **kwargs), sent)

        return requested_now
