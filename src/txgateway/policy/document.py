"""A file of cases as it is read: tables whose keys are known and whose values are well formed, each with its place.

Whether backends and routes of these names exist is :mod:`txgateway.policy.files`' business.
"""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from attrs import Factory, define, frozen

from txgateway.config import ConfigurationError, Problem
from txgateway.config.document import Place
from txgateway.config.problems import read_table
from txgateway.policy.tables import CaseTable, GatewayTable, ReactionTable, RootTable, StepTable

#: The longest file that is read.
MAX_FILE_BYTES: Final = 16 * 2**20
#: What tomllib says of ``expect = {…}`` that goes on with ``expect.backend = {…}`` helps nobody.
_BRACES: Final = "; a table in braces cannot be added to: give each key a line of its own, as in expect.status = 200"
_ROUTING: Final = frozenset({
    "GATEWAY_BACKEND_TARGET", "GATEWAY_BACKEND_TARGET_FILE", "GATEWAY_ROUTES", "GATEWAY_ROUTES_FILE",
})  # fmt: skip

#: What each backend does, by its name.
Scripts: TypeAlias = Mapping[str, tuple[ReactionTable, ...]]
K = TypeVar("K", ReactionTable, StepTable, CaseTable, RootTable)


@frozen
class Step:
    """A step of a case. ``scripts``: of the backends that change."""

    place: str
    table: StepTable
    scripts: Scripts


@frozen
class Case:
    """A case. ``scripts``: of the backends that differ from those of the file."""

    name: str
    place: str
    scripts: Scripts
    steps: tuple[Step, ...]


@frozen
class CasesDocument:
    """What a file says."""

    gateway: GatewayTable
    scripts: Scripts
    cases: tuple[Case, ...]


def read_document(content: bytes) -> tuple[CasesDocument, list[Problem]]:
    """What is in a file, as far as it is well formed, and all that is wrong with it.

    Raises:
        ConfigurationError: it is not TOML.
    """
    try:
        raw = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        hint = _BRACES if "immutable" in str(exc) else ""
        raise ConfigurationError([Problem("", None, f"the file is not TOML: {exc}{hint}")]) from exc
    reader = _Reader()
    found = reader.document(raw)
    return found, reader.problems


@define
class _Reader:
    problems: list[Problem] = Factory(list)

    def document(self, raw: dict[str, Any]) -> CasesDocument:
        root, failed = self._table(RootTable, raw, Place(""))
        if not root.cases and "cases" not in failed:
            self._add("cases", "required: expected a list of at least one case")
        self._check_routing(root.gateway, failed)
        scripts = self._scripts(root.backends, Place("backends"))
        cases = (self._case(one, Place(f"cases[{index}]")) for index, one in enumerate(root.cases))
        return CasesDocument(root.gateway, scripts, tuple(cases))

    def _check_routing(self, gateway: GatewayTable, failed: Container[str]) -> None:
        keys = [key for key in ("routes_file", "routes") if getattr(gateway, key) is not None]
        keys += [f"environment.{name}" for name in gateway.environment if name in _ROUTING]
        if not keys and "gateway" not in failed:
            self._add("gateway", "expected routes_file, routes, or GATEWAY_BACKEND_TARGET in environment")
        for key in keys[1:]:
            self._add(f"gateway.{key}", f"contradicts gateway.{keys[0]}: set only one of the two")

    def _case(self, raw: object, place: Place) -> Case:
        table, failed = self._table(CaseTable, raw, place)
        for key in ("name", "steps"):
            if key not in failed and not getattr(table, key):
                self._add(place.of(key), "required")
        scripts = self._scripts(table.backends, Place(place.of("backends")))
        steps = (self._step(one, Place(f"{place.path}.steps[{index}]")) for index, one in enumerate(table.steps))
        return Case(table.name, place.path, scripts, tuple(steps))

    def _step(self, raw: object, place: Place) -> Step:
        table, failed = self._table(StepTable, raw, place)
        if not failed and (why := table.contradiction()) is not None:
            self._add(place.path, why)
        return Step(place.path, table, self._scripts(table.backends, Place(place.of("backends"))))

    def _scripts(self, raw: Mapping[str, Any], place: Place) -> Scripts:
        return {name: tuple(self._script(script, place.located((name,)))) for name, script in raw.items()}

    def _script(self, raw: object, where: str) -> Iterator[ReactionTable]:
        if not isinstance(raw, list):
            yield self._reaction(raw, where)
        elif not raw:
            self._add(where, "expected a reaction, or a list of at least one")
        else:
            for index, one in enumerate(raw):
                yield self._reaction(one, f"{where}[{index}]")

    def _reaction(self, raw: object, where: str) -> ReactionTable:
        table, failed = self._table(ReactionTable, raw, Place(where))
        if not failed and (why := table.contradiction()) is not None:
            self._add(where, why)
        return table

    def _table(self, kind: type[K], raw: object, place: Place) -> tuple[K, frozenset[str]]:
        """A table without what is wrong in it, and its keys with which something is."""
        if not isinstance(raw, dict):
            self._add(place.path, "expected a table")
            return kind(), frozenset(kind.model_fields)
        table, problems, failed = read_table(kind, raw, lambda location: place.located(location).removeprefix("."))
        self.problems += problems
        return table, failed

    def _add(self, where: str, message: str) -> None:
        self.problems.append(Problem(where, None, message))
