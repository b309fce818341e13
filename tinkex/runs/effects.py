"""What the methods of a training client do to the state of its run."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """What a request does to the state of its training client.

    `GRADIENT` adds to the gradient, `UPDATE` applies it, `LOAD` replaces the whole state, `SAVE`
    saves that as a training checkpoint, `NONE` leaves it as it is.
    """

    GRADIENT = "gradient"
    UPDATE = "update"
    LOAD = "load"
    SAVE = "save"
    NONE = "none"

    @property
    def is_change(self) -> bool:
        """Whether the state is another one afterwards."""
        return self in (Effect.GRADIENT, Effect.UPDATE, Effect.LOAD)


#: The effect of a training client's method, by the beginning of its name; the first that fits.
_BY_PREFIX = {
    "forward_backward": Effect.GRADIENT,
    "optim_step": Effect.UPDATE,
    "load_state": Effect.LOAD,
    "save_state": Effect.SAVE,
    **dict.fromkeys(("forward", "save_weights", "sample", "compute_logprobs"), Effect.NONE),
}


def effect_of(method: str) -> Effect:
    """The effect of a training client's method, by its name; one that is not known may do all."""
    known = (effect for prefix, effect in _BY_PREFIX.items() if method.startswith(prefix))
    return next(known, Effect.GRADIENT)


def is_request(method: str) -> bool:
    """Whether a name is known as that of a method that asks for something of the run."""
    return method.startswith(tuple(_BY_PREFIX))
