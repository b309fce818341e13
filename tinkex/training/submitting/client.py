"""The training client of a segment: passes everything on, and knows what was submitted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NoReturn

from ...runs.effects import Effect, effect_of, is_request
from .event_loops import on_loop

if TYPE_CHECKING:
    from .first_use import FirstUse
    from .requests import Order, Requests

#: Methods that ask, or make something beside the run: they go on when its run is lost.
_ASIDE = ("get_", "create_", "unload")

#: Methods that wait for the server in older versions of the SDK, instead of returning a future.
_MAY_BLOCK = ("save_weights_and_get_sampling_client",)


def bare(client: Any) -> Any:
    """The training client itself, where one of a segment stands for it."""
    if type(client) is not SegmentClient:
        return client
    client.__dict__["_first"].wait()
    return client.__dict__["_bare"]


def attach(client: SegmentClient, bare: Any) -> None:
    """The training client is there for which one of a segment stands."""
    client.__dict__["_bare"] = bare


class SegmentClient:
    """Stands for the training client of a segment; `isinstance` says that it is one.

    Its methods run on the training client itself. Requests raise `SegmentSupersededError` once
    the run is known to be corrupted or replaced; attributes, `get_info` and the like do not. In a
    forked child every call is a `MonitorStoppedError`. It can be neither copied nor pickled.

    A run that another process left is restored at the first use. On an event loop requests, and
    methods whose names end with `_async`, return at once, and are called when the run is there.

    Threads: as the training client's.
    """

    def __init__(self, bare: Any, requests: Requests, first: FirstUse) -> None:
        self.__dict__.update(_bare=bare, _requests=requests, _first=first)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return SegmentClient if self._bare is None else type(self._bare)

    def __getattr__(self, name: str) -> Any:
        if name in ("_bare", "_requests", "_first"):  # not made yet
            raise AttributeError(name)
        if self._first.is_due():
            if self._bare is None and name.startswith("_") and name.endswith("_"):
                # What only looks at an object asks for such names, as notebooks do.
                raise AttributeError(f"{self!r} has no attribute {name!r}")
            is_future = is_request(name) and name not in _MAY_BLOCK
            if self._first.keeps_calls() and (is_future or name.endswith("_async")):
                return self._kept(name)
            self._first.wait()
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
        self._first.wait()
        self.__dict__.pop(name, None)
        setattr(self._bare, name, value)

    def __repr__(self) -> str:
        if self._bare is None:
            return f"<the training client of run {self._requests.run_id}, not restored yet>"
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

    def _kept(self, name: str) -> Callable[..., Any]:
        """A method of a run that is not there yet, called on an event loop."""
        requests, first = self._requests, self._first
        is_aside = name.startswith(_ASIDE)
        effect = Effect.NONE if is_aside else effect_of(name)

        async def begun(order: Order, *args: Any, **kwargs: Any) -> Any:
            requests.begins(order)
            if is_aside:
                await on_loop(first.keep(lambda: None))
            elif first.is_due():
                return await on_loop(first.keep(partial(self._called, name, args, kwargs), effect))
            return await getattr(self, name)(*args, **kwargs)

        def requested(*args: Any, **kwargs: Any) -> Any:
            if name.endswith("_async"):
                return begun(requests.order(effect), *args, **kwargs)
            if not first.keeps_calls():
                return getattr(self, name)(*args, **kwargs)
            return first.keep_request(partial(self._called, name, args, kwargs), effect)

        return requested

    def _called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a method returns, called on a thread of ours; of a coroutine what that returns."""
        answer = self._request(name, getattr(self._bare, name))(*args, **kwargs)
        if not inspect.iscoroutine(answer):
            return answer
        import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

        return asyncio.run(answer)
