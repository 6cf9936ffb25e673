"""Classes of the user's that a configuration names: found, imported, and looked at. Nothing else is imported here.

A module is imported once in a process, as Python does it: whoever changes one starts the process anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from pydantic import BaseModel

from txgateway.config.problems import suggestion
from txgateway.config.values import choice, one_of

#: Group of the entry points that give middlewares of installed packages a short name.
ENTRY_POINTS: Final = "txgateway.middlewares"
#: Directly above the router, or on a route.
POSITIONS: Final = ("edge", "route")


def named(name: str) -> Any:
    """What ``package.module:name`` stands for, imported.

    Raises:
        ImportError: there is no such module or attribute.
    """
    module_name, _, attributes = name.partition(":")
    found: Any = import_module(module_name)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as exc:
            raise ImportError(f"module {module_name!r} has no {attributes!r}") from exc
    return found


def entry_point(name: str, others: Iterable[str] = ()) -> str:
    """The ``package.module:Class`` that an installed package has given this short name; the package is not imported.

    Args:
        name: short.
        others: names that would have been understood as well.

    Raises:
        ValueError: no package has, or two have.
    """
    points = entry_points(group=ENTRY_POINTS)
    values = {point.value.partition("[")[0].strip() for point in points if point.name == name}
    if not values:
        hint = suggestion(name, [*others, *sorted(points.names)])
        raise ValueError(
            f"expected package.module:Class, the name of a [middlewares] table, or of an entry point in "
            f"{ENTRY_POINTS}{hint}"
        )
    if len(values) > 1:
        raise ValueError(f"several packages have this entry point: say {one_of(sorted(values))}")
    return values.pop()


def middleware_class(use: str) -> type[Any]:
    """The class that ``package.module:Class`` names, imported.

    Raises:
        ValueError: it cannot be, or is no middleware.
    """
    try:
        kind = named(use)
    except (Exception, SystemExit) as exc:  # importing runs the user's code
        module_name, _, attribute = use.partition(":")
        is_attribute = isinstance(exc, ImportError) and isinstance(exc.__cause__, AttributeError)
        hint = suggestion(attribute, _names_in(module_name)) if is_attribute else ""
        raise ValueError(f"it cannot be imported: {type(exc).__name__}: {exc}{hint}") from exc
    if not isinstance(kind, type) or not callable(getattr(kind, "render", None)):
        raise ValueError("expected package.module:Class of a class with a render method")
    if inspect.iscoroutinefunction(getattr(kind, "render", None)):
        raise ValueError("its render is async: what waits is returned as self.when(deferred, request, then)")
    try:
        inspect.signature(kind).bind(None, None, None)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"expected a class that is called with (inner, settings, context): {exc}") from exc
    return kind


def settings_class(kind: type[Any]) -> type[BaseModel] | None:
    """The model of its settings; None if it takes none.

    Raises:
        ValueError: it is something else.
    """
    settings = getattr(kind, "Settings", None)
    if settings is None or (isinstance(settings, type) and issubclass(settings, BaseModel)):
        return settings
    raise ValueError("expected its Settings to be a pydantic.BaseModel")


def position_of(kind: type[Any]) -> str:
    """Where it stands unless a table says otherwise.

    Raises:
        ValueError: it says something else.
    """
    try:
        return choice(*POSITIONS)(getattr(kind, "position", "route"))
    except ValueError as exc:
        raise ValueError(f"its position is not accepted: {exc}") from exc


def _names_in(module_name: str) -> list[str]:
    members = vars(import_module(module_name))
    return [name for name, value in members.items() if isinstance(value, type) and hasattr(value, "render")]
