"""The effective configuration: every setting with its value and where it came from, without secrets.

Values are written as a configuration has them (``30s``, ``16KiB``, ``100/s``), so that they can be copied back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from txgateway.config.document import ENDS, BackendTable, Document, RouteTable
from txgateway.config.environment import Environment
from txgateway.config.groups import Leaf, Table, leaves
from txgateway.config.middlewares import Middlewares
from txgateway.config.problems import MASK, is_secret
from txgateway.config.settings import variable_name
from txgateway.config.targets import Target
from txgateway.config.values import format_duration, format_size, without_user

#: ``{"value": …, "source": "default"}``
Entry = dict[str, Any]

_DEFAULT: Final = "default"
#: Keys of routes that are not inherited, though a variable has the same name, or that are only there when given.
_NOT_INHERITED: Final = frozenset({"middlewares", *ENDS})
#: Parts of header names whose values are nobody's business.
_SECRET_WORDS: Final = ("auth", "cookie", "credential", "key", "password", "secret", "session", "signature", "token")


def effective_configuration(
    environment: Environment, document: Document, middlewares: Middlewares
) -> dict[str, dict[str, Any]]:
    """All settings: ``settings`` by variable, ``backends``, ``middlewares`` and ``routes`` by name and then by key.

    Returns:
        A tree of JSON values; each setting is ``{"value": …, "source": …}`` with a source of ``env GATEWAY_X``,
        ``file GATEWAY_X_FILE /path``, ``document routes[2].timeout.total`` or ``default``.
    """
    settings = {
        leaf.key: _entry(leaf, environment.sources.get(leaf.key, _DEFAULT)) for leaf in leaves(environment.settings)
    }
    backend_base = _inherited(BackendTable(), settings)
    route_base = _inherited(RouteTable(), settings)
    if middlewares.default:
        route_base["middlewares"] = {"value": list(middlewares.default), "source": settings["middlewares"]["source"]}
    return {
        "settings": {variable_name(key): entry for key, entry in settings.items()} | _tracing(environment),
        "backends": {entry.name: backend_base | _own(entry.table, entry.place.source) for entry in document.backends},
        "middlewares": {name: dict(found.entries) for name, found in middlewares.named.items()},
        "routes": {entry.table.name: route_base | _own(entry.table, entry.place.source) for entry in document.routes},
    }


def _tracing(environment: Environment) -> dict[str, Entry]:
    """OpenTelemetry's variables, as far as they are set and count."""
    given = {} if environment.tracing is None else environment.tracing.variables
    return {name: {"value": text, "source": f"env {name}"} for name, text in given.items()}


def _inherited(table: Table, settings: Mapping[str, Entry]) -> dict[str, Entry]:
    """What applies where a table says nothing: the environment's value, or the default of a key it does not have."""
    found: dict[str, Entry] = {}
    for leaf in leaves(table):
        if leaf.key not in ENDS:
            is_inherited = leaf.key in settings and leaf.key not in _NOT_INHERITED
            found[leaf.key] = settings[leaf.key] if is_inherited else _entry(leaf, _DEFAULT)
    return found


def _own(table: Table, source: Callable[[str], str]) -> dict[str, Entry]:
    return {leaf.key: _entry(leaf, source(leaf.key)) for leaf in leaves(table, only_given=True)}


def _entry(leaf: Leaf, source: str) -> Entry:
    return {"value": _shown(leaf), "source": source}


def _shown(leaf: Leaf) -> Any:
    value = leaf.value
    if isinstance(value, str) and is_secret(leaf.key):
        return MASK
    if isinstance(value, float) and leaf.name.endswith("_s"):
        return format_duration(value)
    if isinstance(value, int) and leaf.name.endswith("_bytes"):
        return format_size(value)
    return _plain(value)


def _plain(value: object) -> Any:
    """A value in terms of JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return without_user(value)
    if isinstance(value, Mapping):
        return {name: MASK if is_secret_header(name) else _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Table):
        return {leaf.key: _plain(leaf.value) for leaf in leaves(value)}
    return value.url if isinstance(value, Target) else str(value)


def is_secret_header(name: str) -> bool:
    """Whether the value of a field of this name is shown to nobody."""
    return any(word in name.lower() for word in _SECRET_WORDS)
