"""Walks all that can be reached from a thing, to find texts that should be nowhere in it.

It follows every reference that the garbage collector knows: attributes, slots, containers,
closures, defaults, bound methods, generators, tracebacks, and stack frames with their locals. It
does not enter classes, modules and their globals (from there everything of the process can be
reached), nor what the test itself handed in, nor the frames of tests.
"""

from __future__ import annotations

import gc
import sys
from types import FrameType, ModuleType

_TEXTS = (str, bytes, bytearray)


def places_of(secret, things, *, handed_in=()):
    """How one comes from the things to texts with the secret: a line for each place."""
    closed = {id(each) for each in handed_in} | {id(vars(m)) for m in [*sys.modules.values()]}
    waiting = [(thing, type(thing).__name__) for thing in things]
    seen = {}
    found = []
    while waiting:
        thing, way = waiting.pop()
        if id(thing) in seen or id(thing) in closed or is_closed(thing):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, _TEXTS):
            if secret in (thing if isinstance(thing, str) else bytes(thing).decode("latin-1")):
                found.append(way)
            continue
        parts = gc.get_referents(thing)
        if isinstance(thing, FrameType):
            parts += thing.f_locals.values()
        waiting += [(part, f"{way} > {name_of(thing, part)}") for part in parts]
    return found


def is_closed(thing):
    """Whether a thing is not entered, whatever the test is about."""
    if isinstance(thing, FrameType):
        return thing.f_globals.get("__name__", "").partition(".")[0] in TESTS
    return isinstance(thing, type | ModuleType)


#: The packages whose frames are the tests' own.
TESTS = {"_pytest", "pluggy", "pytest", "support", "tests"}


def name_of(thing, part):
    """By what name a part lies in a thing, if that can be told, and of what kind it is."""
    inside = getattr(thing, "__dict__", None)
    inside = thing if isinstance(thing, dict) else inside
    names = [n for n, value in inside.items() if value is part] if isinstance(inside, dict) else []
    return f"{names[0]!r}: {type(part).__name__}" if names else type(part).__name__
