"""How much an object keeps: the sizes of all containers that can be reached from it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

from twisted.logger import Logger

from txgateway.middleware.context import Context

#: Objects that are looked at, at most.
MAX_OBJECTS: Final = 20_000
_CONTAINERS: Final = (dict, list, set, deque, bytearray)
#: Not looked into.
_PLAIN: Final = (str, bytes, int, float, bool, type(None), ModuleType, type, FunctionType, Context, Logger)


def container_sizes(root: Any, without: Iterable[Any]) -> dict[str, int]:
    """The sizes of all containers, by where they are.

    Args:
        root: its attributes, those of its class and the globals of its module are where the search begins.
        without: objects that are not its own.
    """
    seen = {id(one) for one in without}
    sizes: dict[str, int] = {}
    queue = deque([(type(root).__name__, root), *_shared_by_all(root)])
    while queue and len(seen) < MAX_OBJECTS:
        place, value = queue.popleft()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        if isinstance(value, _CONTAINERS):
            sizes[place] = len(value)
        queue.extend((f"{place}{step}", part) for step, part in _parts(value))
    return sizes


def _shared_by_all(root: Any) -> Iterator[tuple[str, Any]]:
    """Containers that stand in the classes and the module of an object."""
    for kind in type(root).__mro__:
        for name, value in vars(kind).items():
            if isinstance(value, _CONTAINERS):
                yield f"{kind.__name__}.{name}", value
    module = sys.modules.get(type(root).__module__)
    for name, value in vars(module).items() if module is not None else ():
        if isinstance(value, _CONTAINERS) and not name.startswith("__"):
            yield f"{module.__name__ if module else ''}.{name}", value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, MethodType):
        yield "", value.__self__
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", part) for key, part in list(value.items()))
    elif isinstance(value, list | set | frozenset | tuple | deque):
        yield from ((f"[{index}]", part) for index, part in enumerate(list(value)))
    else:
        yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items()))
        for kind in type(value).__mro__:
            names = vars(kind).get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if name.startswith("__") or not hasattr(value, name):
                    continue
                yield f".{name}", getattr(value, name)
