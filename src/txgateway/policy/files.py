"""Files of cases, read and judged together with the configurations that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from attrs import frozen

from txgateway.config import ConfigurationError, Problem
from txgateway.config.keys import read_bounded
from txgateway.config.problems import suggestion
from txgateway.policy.document import MAX_FILE_BYTES, Case, CasesDocument, Scripts, Step, read_document
from txgateway.policy.surroundings import Gateways, at_home
from txgateway.policy.tables import ExpectTable


@frozen
class CaseFile:
    """A file of cases that can be run. ``name``: as the user has given it."""

    name: str
    path: Path
    document: CasesDocument

    def chosen(self, text: str) -> tuple[Case, ...]:
        """The cases with this text in their names, in whatever case."""
        return tuple(case for case in self.document.cases if text.lower() in case.name.lower())


@frozen
class FileProblem:
    """What is wrong with a file, and with which."""

    file: str
    problem: Problem

    def __str__(self) -> str:
        """The line for standard error."""
        return f"{self.file}: {self.problem}" if self.problem.where else f"{self.file}: {self.problem.message}"


class WrongFiles(Exception):
    """Files that cannot be run.

    Args:
        problems: all that is wrong with them, at least one.
    """

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def read_files(names: Iterable[str]) -> tuple[CaseFile, ...]:
    """The files, judged.

    Raises:
        WrongFiles: one of them or its configuration is wrong; all that is wrong with any is told at once.
    """
    problems: list[FileProblem] = []
    files = []
    for name in names:
        try:
            files.append(_read(name))
        except ConfigurationError as exc:
            problems += (FileProblem(name, problem) for problem in exc.problems)
    if problems:
        raise WrongFiles(problems)
    return tuple(files)


def _read(name: str) -> CaseFile:
    try:
        content = read_bounded(name, MAX_FILE_BYTES)
    except ValueError as exc:
        raise ConfigurationError([Problem("", None, str(exc))]) from exc
    document, problems = read_document(content)
    path = Path(name).resolve()
    if not any(problem.where.startswith("gateway") for problem in problems):
        problems += _judged(document, path.parent)
    if problems:
        raise ConfigurationError(problems)
    return CaseFile(name, path, document)


def _judged(document: CasesDocument, directory: Path) -> Iterator[Problem]:
    """What is wrong with the configuration, and with what the cases say of it."""
    try:
        with at_home(directory):
            configuration = Gateways(document.gateway, directory).configuration
    except ConfigurationError as exc:
        yield from exc.problems
        return
    backends = sorted(configuration.backends)
    routes = sorted(route.name for route in configuration.routes)
    yield from _unknown_backends(document.scripts, "backends", backends)
    for case in document.cases:
        yield from _unknown_backends(case.scripts, f"{case.place}.backends", backends)
        for step in case.steps:
            yield from _unknown_backends(step.scripts, f"{step.place}.backends", backends)
            yield from _unsigned(step, document)
            if step.table.expect is not None:
                yield from _unknown_expected(step.table.expect, f"{step.place}.expect", backends, routes)


def _unsigned(step: Step, document: CasesDocument) -> Iterator[Problem]:
    request = step.table.request
    if request is not None and isinstance(request.token, Mapping) and not document.gateway.tokens:
        yield Problem(f"{step.place}.request.token", None, "expected gateway.tokens = true with a table of claims")


def _unknown_expected(expect: ExpectTable, where: str, backends: list[str], routes: list[str]) -> Iterator[Problem]:
    if expect.route is not None:
        yield from _unknown("route", expect.route.literal, f"{where}.route", routes)
    if expect.backend is not None and expect.backend.name is not None:
        yield from _unknown("backend", expect.backend.name.literal, f"{where}.backend.name", backends)


def _unknown_backends(scripts: Scripts, where: str, known: list[str]) -> Iterator[Problem]:
    for name in scripts:
        yield from _unknown("backend", name, f"{where}.{name}", known)


def _unknown(what: str, name: str | None, where: str, known: list[str]) -> Iterator[Problem]:
    if name is not None and name not in known:
        hint = suggestion(name, known) or f"; there is {', '.join(known[:20]) or 'none'}"
        yield Problem(where, None, f"there is no {what} {name!r}{hint}")
