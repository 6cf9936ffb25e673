"""Variables as they are set: which are ours, what files they point to, which are misspelt or came from Kubernetes.

Values are not judged here, but for being empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from txgateway.config.groups import Leaf
from txgateway.config.keys import MAX_KEY_FILE_BYTES, read_bounded
from txgateway.config.problems import Location, Problem, is_secret, read_table, suggestion
from txgateway.config.settings import VARIABLES, Settings, may_be_empty, variable_name
from txgateway.config.tracing import TracingSettings, read_tracing
from txgateway.config.values import shown

_PREFIX: Final = "GATEWAY_"
FILE: Final = "_FILE"
#: Begins the variables of the settings of users' middlewares, of which only these know what there is.
MIDDLEWARE_PREFIX: Final = "GATEWAY_MIDDLEWARE_"
_LINK_PROTOCOLS: Final = ("tcp", "udp", "sctp")

_LINK_MESSAGE: Final = (
    "Kubernetes sets this for a Service whose name begins with 'gateway', and it is no setting of the gateway: "
    "put 'enableServiceLinks: false' into the pod's spec, or rename the Service"
)


@attrs.frozen
class Environment:
    """What the variables say.

    Attributes:
        settings: without the values that are not accepted.
        sources: by key with dots, where a setting's value comes from: ``env GATEWAY_X`` or ``file GATEWAY_X_FILE
            /path``; only those that are set, rightly or wrongly.
        problems: what is wrong with them.
        failed: the keys at the top of the settings that something is wrong with.
        tracing: what OpenTelemetry's variables say; None for no tracing.
        of_middlewares: the variables that belong to users' middlewares, or to nobody.
        files_of_middlewares: of those that may name a file, its content, or why there is none.
    """

    settings: Settings
    sources: Mapping[str, str]
    problems: tuple[Problem, ...]
    failed: frozenset[str]
    tracing: TracingSettings | None
    of_middlewares: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    files_of_middlewares: Mapping[str, str | Problem] = attrs.field(factory=dict, repr=False)

    def variable(self, key: str) -> str:
        """The variable as the user has set it, for problems: with ``_FILE``, if it is a file."""
        return _variable_of(self.sources, key)


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read all of our variables, and all that look like it."""
    problems = [problem for name in sorted(environ) if (problem := _stranger(name, environ[name])) is not None]
    raw: dict[str, Any] = {}
    sources: dict[str, str] = {}
    refused = {problem.where for problem in problems}
    for name, leaf in VARIABLES.items():
        if name in refused:
            continue
        try:
            found = _value_of(name, leaf, environ)
        except _Refused as exc:
            problems.append(exc.problem)
            sources[leaf.key] = f"env {name}"
        else:
            if found is not None:
                value, sources[leaf.key] = found
                _put(raw, leaf.key, value)
    settings, wrong, failed = read_table(Settings, raw, lambda location: _variable_of(sources, _dotted(location)))
    failed |= {key.partition(".")[0] for key in sources if not _is_in(raw, key)}
    tracing, traces_wrong = read_tracing(environ)
    own = {name: value for name, value in environ.items() if name.startswith(MIDDLEWARE_PREFIX) and name not in refused}
    files = {name: _file_of_middleware(name, path) for name, path in own.items() if name.endswith(FILE)}
    return Environment(settings, sources, (*problems, *wrong, *traces_wrong), failed, tracing, own, files)


def _file_of_middleware(name: str, path: str) -> str | Problem:
    try:
        return read_bounded(path, MAX_KEY_FILE_BYTES).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        return Problem(name, None, "the file is not UTF-8 text")
    except ValueError as exc:
        return Problem(name, None, str(exc))


class _Refused(Exception):
    def __init__(self, where: str, value: str | None, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(where, value, message)


def _value_of(name: str, leaf: Leaf, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """A variable's value and where it came from; None if it is not set."""
    file_name = name + FILE
    path = environ.get(file_name) if _takes_file(name) else None
    value = environ.get(name)
    if path is None:
        if value == "" and not may_be_empty(leaf):
            raise _Refused(name, None, "it is set, but empty")
        return None if value is None else (value, f"env {name}")
    if value is not None:
        raise _Refused(file_name, None, f"contradicts {name}: set only one of the two")
    return _content(file_name, leaf, path), f"file {file_name} {path}"


def _content(file_name: str, leaf: Leaf, path: str) -> str:
    # A secret that was put where its path belongs must not be printed.
    path_shown = None if is_secret(leaf.key) else shown(path)
    if not path:
        raise _Refused(file_name, None, "it is set, but empty")
    try:
        content = read_bounded(path, MAX_KEY_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _Refused(file_name, path_shown, "the file is not UTF-8 text") from exc
    except ValueError as exc:
        raise _Refused(file_name, path_shown, str(exc)) from exc
    content = content.removesuffix("\n")
    if content == "" and not may_be_empty(leaf):
        raise _Refused(file_name, path_shown, "the file is empty")
    return content


def _stranger(name: str, value: str) -> Problem | None:
    """What is wrong with a variable by its name alone, or by the service link in its value."""
    if not name.startswith(_PREFIX):
        return None
    base = name.removesuffix(FILE)
    is_known = name in VARIABLES or (name != base and base in VARIABLES and _takes_file(base))
    is_link = name.endswith("_PORT") and value.partition("://")[0] in _LINK_PROTOCOLS
    if is_link:
        return Problem(name, shown(value), _LINK_MESSAGE)
    if is_known or name.startswith(MIDDLEWARE_PREFIX):
        return None
    return stranger(name, value)


def stranger(name: str, value: str, known: Iterable[str] = VARIABLES) -> Problem:
    """What is wrong with a variable that nobody knows.

    Args:
        name: it begins as ours do.
        value: of it.
        known: what it may have been meant to be; with ``_FILE`` as well.
    """
    if _is_service_link(name):
        return Problem(name, shown(value), _LINK_MESSAGE)
    names = [*known, *(f"{one}{FILE}" for one in known if _takes_file(one))]
    return Problem(name, None, f"there is no such variable{suggestion(name, names)}")


def _is_service_link(name: str) -> bool:
    """Whether Kubernetes names variables of service links like this (its documentation, "Accessing the Service")."""
    words = name.split("_")
    for at, word in enumerate(words):
        after = words[at + 1 :]
        if word == "SERVICE" and after[:1] in (["HOST"], ["PORT"]):
            return True
        if word == "PORT" and len(after) > 1 and after[0].isdigit() and after[1].lower() in _LINK_PROTOCOLS:
            return True
    return False


def _takes_file(name: str) -> bool:
    return name.startswith(_PREFIX) and not name.endswith(FILE) and name + FILE not in VARIABLES


def _put(raw: dict[str, Any], key: str, value: str) -> None:
    group, dot, inner = key.partition(".")
    if dot:
        raw.setdefault(group, {})[inner] = value
    else:
        raw[group] = value


def _is_in(raw: Mapping[str, Any], key: str) -> bool:
    group, dot, inner = key.partition(".")
    return inner in raw.get(group, ()) if dot else group in raw


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _variable_of(sources: Mapping[str, str], key: str) -> str:
    source = sources.get(key)
    return source.split(" ")[1] if source else variable_name(key)
