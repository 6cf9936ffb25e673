"""Whose a hook is, for the log line of one that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def hook_fields(hook: Callable[..., Any]) -> dict[str, Any]:
    """``hook``, where it is in the code, and ``middleware``, if it belongs to a user's that can be found."""
    function = getattr(hook, "func", hook)  # of a functools.partial
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    fields: dict[str, Any] = {
        "hook": f"{module}.{name}" if name else f"{type(hook).__module__}.{type(hook).__qualname__}"
    }
    for owner in _owners(hook):
        context = getattr(owner, "context", None)
        if isinstance(middleware := getattr(context, "name", None), str):
            fields["middleware"] = middleware
            break
    return fields


def _owners(hook: Any) -> Iterator[Any]:
    """What a bound method is bound to, what a closure holds, what a partial was given."""
    function = getattr(hook, "func", hook)
    yield getattr(function, "__self__", None)
    yield from getattr(hook, "args", ())
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing was put in yet
            continue
