"""User middlewares: which a configuration names, whose code each is, where it stands, and what its settings are.

The rest of this room only reads; here the user's modules are imported, so that what is wrong with them is told together
with everything else. Document and variables are plain data, so that another process can do the same with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
from pydantic import BaseModel

from txgateway.config.document import Document, MiddlewareEntry
from txgateway.config.environment import FILE, MIDDLEWARE_PREFIX, Environment, stranger
from txgateway.config.problems import Problem
from txgateway.config.user_code import entry_point, middleware_class, position_of, settings_class
from txgateway.config.user_settings import Entry, Given, key_of, may_be_empty, read_settings
from txgateway.config.values import shown

_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")
UNUSED: Final = "no list names it, so it has no effect"


@attrs.frozen
class UserMiddleware:
    """One middleware of the user's.

    Attributes:
        name: of its table or entry point, or its class's in snake case.
        use: ``package.module:Class``.
        kind: that class.
        position: ``edge`` or ``route``.
        settings: of its own model; None if it takes none.
        entries: of all this, by key, the value and the source, without secrets.
    """

    name: str
    use: str
    kind: type[Any]
    position: str
    settings: Any = attrs.field(repr=False)
    entries: Mapping[str, Entry] = attrs.field(eq=False, repr=False)


@attrs.frozen
class Middlewares:
    """All user middlewares of a configuration.

    Attributes:
        named: by what lists call them.
        edge: what those of them are called that all requests pass, outermost first.
        default: the same of those that routes without a list of their own have.
        problems: what is wrong with them.
        warnings: tables that nothing uses.
    """

    named: Mapping[str, UserMiddleware] = MappingProxyType({})
    edge: tuple[str, ...] = ()
    default: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = attrs.field(default=(), eq=False)
    warnings: tuple[str, ...] = ()


def read_middlewares(environment: Environment, document: Document) -> Middlewares:
    """Import what is named, and judge it; blocks as long as the user's modules do."""
    return _Reader(environment, document).read()


def snake(name: str) -> str:
    """``rate_guard`` for ``RateGuard`` and ``rate-guard``: as metrics and, in upper case, variables have it."""
    return "_".join(word for word in _WORDS.split(name) if word).lower()


class _Reader:
    def __init__(self, environment: Environment, document: Document) -> None:
        self._environment = environment
        self._document = document
        self._found: dict[str, UserMiddleware] = {}
        self._problems: list[Problem] = []
        self._owners: dict[str, str] = {}  # what lists call a middleware, by its name in snake case
        self._variables: set[str] = set()  # that somebody knows

    def read(self) -> Middlewares:
        tables = {entry.name: entry for entry in self._document.middlewares}
        places = dict(self._places())
        for name in dict.fromkeys([*tables, *places]):
            self._read(name, tables.get(name), places.get(name, ""))
        self._check_routes()
        variables = self._environment.of_middlewares
        # Without a document nobody knows whose they would have been.
        for variable in sorted(variables.keys() - self._variables) if self._document.routes else ():
            self._problems.append(stranger(variable, variables[variable], sorted(self._variables)))
        both = [name for name in self._environment.settings.middlewares if name in self._found]
        return Middlewares(
            named=self._found,
            edge=tuple(name for name in both if self._found[name].position == "edge"),
            default=tuple(name for name in both if self._found[name].position == "route"),
            problems=tuple(self._problems),
            warnings=tuple(f"{tables[name].place.of('')}: {UNUSED}" for name in tables if name not in places),
        )

    def _places(self) -> Iterator[tuple[str, str]]:
        """Every name in a list, with a place where it stands: of several the first."""
        seen: set[str] = set()
        where = self._environment.variable("middlewares")
        lists = [(where, self._environment.settings.middlewares)]
        lists += [(route.place.of("middlewares"), route.table.middlewares) for route in self._document.routes]
        for where, names in lists:
            for name in names:
                if name not in seen:
                    seen.add(name)
                    yield name, where

    def _read(self, called: str, table: MiddlewareEntry | None, where: str) -> None:
        """One of them: ``called`` so in a list at ``where``, or by its table."""
        if table is not None:
            where, use = table.place.of("use"), table.table.use
            if "use" in table.failed:
                self._give_up(called)
                return
            if not use:
                self._refuse(called, Problem(where, None, "required"))
                return
        else:
            use = called
        try:
            use = use if ":" in use else entry_point(use, self._known_names() if table is None else ())
            name = called if ":" not in called else snake(use.rpartition(":")[2].rpartition(".")[2])
            self._claim(called, name)
            kind = middleware_class(use)
            model = settings_class(kind)
            position = position_of(kind)
        except ValueError as exc:
            self._refuse(called, Problem(where, shown(use), str(exc)))
            return
        is_document = table is not None or "." in where  # no variable has a dot in its name
        entries = {
            "use": {"value": use, "source": f"{'document' if is_document else 'env'} {where}"},
            "position": {"value": position, "source": f"class {use}"},
        }
        if table is not None and table.table.position is not None:
            position = table.table.position
            entries["position"] = {"value": position, "source": table.place.source("position")}
        settings, shown_settings = self._settings(name, use, model, table)
        entries |= {f"settings.{key}": entry for key, entry in shown_settings.items()}
        self._found[called] = UserMiddleware(name, use, kind, position, settings, entries)

    def _known_names(self) -> list[str]:
        return [entry.name for entry in self._document.middlewares]

    def _claim(self, called: str, name: str) -> None:
        """Two of one name would have the same variables and metrics."""
        owner = self._owners.setdefault(snake(name), called)
        if owner != called:
            raise ValueError(
                f"{owner} is called {snake(name)} as well, in variables and metrics: name that one here, or give "
                "this one a [middlewares] table of another name"
            )

    def _refuse(self, called: str, problem: Problem) -> None:
        self._problems.append(problem)
        self._give_up(called)

    def _give_up(self, called: str) -> None:
        """Nobody knows which variables it would have had."""
        prefix = _variable(snake(called.rpartition(":")[2]), "")
        self._variables |= {name for name in self._environment.of_middlewares if name.startswith(prefix)}

    # --- settings -------------------------------------------------------------------------------------------------

    def _settings(
        self, name: str, use: str, model: type[BaseModel] | None, table: MiddlewareEntry | None
    ) -> tuple[BaseModel | None, dict[str, Entry]]:
        """The settings, and all of them with their sources."""
        given = dict(self._given(snake(name), model, table))
        if model is None:
            self._problems += [Problem(one.where, None, f"{use} takes no settings") for one in given.values()]
            return None, {}
        variables = {key_of(field, info): _variable(snake(name), field) for field, info in model.model_fields.items()}
        place = _variable(snake(name), "*") if table is None else table.place.of("settings")

        def absent(key: str) -> str:
            return variables.get(key, place) if table is None else f"{place}.{key}"

        settings, entries, wrong = read_settings(model, given, place, absent)
        self._problems += wrong
        return settings, entries

    def _given(
        self, name: str, model: type[BaseModel] | None, table: MiddlewareEntry | None
    ) -> Iterator[tuple[str, Given]]:
        """What is given, by key: the document's own, and of the environment what it leaves open."""
        own = table.table.settings if table is not None else {}
        for key, value in own.items():
            assert table is not None
            yield key, Given(value, table.place.of(f"settings.{key}"), table.place.source(f"settings.{key}"))
        fields = {} if model is None else model.model_fields
        variables = {field: _variable(name, field) for field in fields}
        taken = set(variables.values())
        self._variables |= taken
        for field, info in fields.items():
            variable, file = variables[field], variables[field] + FILE
            may_be_file = file not in taken
            self._variables |= {file} if may_be_file else set()
            found = self._of_environment(variable, file if may_be_file else "", may_be_empty=may_be_empty(info))
            if found is not None and key_of(field, info) not in own:
                yield key_of(field, info), found

    def _of_environment(self, variable: str, file: str, *, may_be_empty: bool) -> Given | None:
        """What a variable, or the file that it names, gives; None for nothing."""
        environment = self._environment
        text, content = environment.of_middlewares.get(variable), environment.files_of_middlewares.get(file)
        if text is not None and content is not None:
            self._problems.append(Problem(file, None, f"contradicts {variable}: set only one of the two"))
            return None
        if isinstance(content, Problem):
            self._problems.append(content)
            return None
        where, value = (variable, text) if content is None else (file, content)
        if value == "" and not may_be_empty:
            self._problems.append(Problem(where, None, "it is set, but empty"))
        if not value:
            return None
        source = f"env {variable}" if content is None else f"file {file} {environment.of_middlewares[file]}"
        return Given(value, where, source, is_text=True)

    # --- routes ---------------------------------------------------------------------------------------------------

    def _check_routes(self) -> None:
        for route in self._document.routes:
            for name in route.table.middlewares:
                found = self._found.get(name)
                if found is not None and found.position == "edge":
                    message = "it stands at the edge, where every request passes it: name it in GATEWAY_MIDDLEWARES"
                    self._problems.append(Problem(route.place.of("middlewares"), shown(name), message))


def _variable(name: str, field: str) -> str:
    return f"{MIDDLEWARE_PREFIX}{name}_{field}".upper()
