"""A configuration as frames of bytes, which are read one at a time: ten thousand routes in one go would stall.

Groups of settings that are equal are sent once, and are one object at the other end, as they are where they come from.
Both ends are this program: what is unpickled is our own.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from io import BytesIO
from struct import Struct
from typing import Any, Final

from txgateway.config import Configuration, ConfigurationError, Middlewares, Problem
from txgateway.config.document import Document
from txgateway.config.environment import Environment
from txgateway.config.groups import Table
from txgateway.config.middlewares import read_middlewares

_LENGTH: Final = Struct(">I")
#: Routes in a frame: as many as take about a millisecond to read.
ROUTES_PER_FRAME: Final = 8
#: Longest frame, and all of them together: a document of the largest size that is read makes less.
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024


class TransferError(Exception):
    """What came is not a whole configuration."""


class _Writer:
    """Pickles, with equal groups written once."""

    def __init__(self) -> None:
        self._ids: dict[tuple[object, ...], int] = {}

    def dump(self, value: object) -> bytes:
        buffer = BytesIO()
        pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._persistent_id  # type: ignore[method-assign]
        pickler.dump(value)
        return buffer.getvalue()

    def _persistent_id(self, value: object) -> tuple[int, bytes] | int | None:
        if not isinstance(value, Table):
            return None
        try:
            key = (type(value), frozenset(value.model_fields_set), value)
            known = self._ids.get(key)
        except TypeError:  # it holds something that cannot be hashed
            return None
        if known is not None:
            return known
        content = self.dump((type(value), value.__dict__, value.model_fields_set))
        number = self._ids[key] = len(self._ids)
        return number, content


class _Reader:
    """Takes them up again."""

    def __init__(self) -> None:
        self._known: dict[int, Table] = {}

    def load(self, data: bytes) -> Any:
        unpickler = pickle.Unpickler(BytesIO(data))  # noqa: S301 -- our own child wrote it
        unpickler.persistent_load = self._persistent_load  # type: ignore[method-assign]
        return unpickler.load()

    def _persistent_load(self, reference: Any) -> Table:
        if isinstance(reference, tuple):
            number, content = reference
            kind, members, given = self.load(content)
            self._known[number] = kind.model_construct(given, **members)
            return self._known[number]
        return self._known[reference]


def problem_frames(problems: tuple[Problem, ...]) -> Iterator[bytes]:
    """What is wrong with a configuration."""
    yield _framed(pickle.dumps(("problems", problems), pickle.HIGHEST_PROTOCOL))


def configuration_frames(configuration: Configuration) -> Iterator[bytes]:
    """A configuration."""
    writer = _Writer()
    environment, document = configuration.parts()
    head = (
        configuration.settings,
        configuration.backends,
        configuration.tracing,
        configuration.warnings,
        configuration.hazards,
        environment,
        document.backends,
        document.middlewares,
        {name: found.position for name, found in configuration.middlewares.named.items()},
        len(configuration.routes),
    )
    yield _framed(writer.dump(("head", head)))
    both = list(zip(configuration.routes, document.routes, strict=True))
    for index in range(0, len(both), ROUTES_PER_FRAME):
        yield _framed(writer.dump(("routes", both[index : index + ROUTES_PER_FRAME])))


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def split_frames(data: bytearray) -> Iterator[bytes]:
    """Take the frames that are complete off the front.

    Raises:
        TransferError: one is longer than any may be.
    """
    while len(data) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(data)
        if length > MAX_FRAME_BYTES:
            raise TransferError("a frame that is too long")
        end = _LENGTH.size + length
        if len(data) < end:
            return
        frame = bytes(data[_LENGTH.size : end])
        del data[:end]
        yield frame


class Received:
    """Puts a configuration together again.

    Attributes:
        problems: what is wrong with it, if that is what came.
    """

    def __init__(self) -> None:
        self.problems: tuple[Problem, ...] = ()
        self._reader = _Reader()
        self._head: Any = None
        self._routes: list[Any] = []

    def take(self, frame: bytes) -> None:
        """One more frame, in order."""
        kind, content = self._reader.load(frame)
        if kind == "problems":
            self.problems = content
        elif kind == "head":
            self._head = content
        else:
            self._routes += content

    def configuration(self) -> Configuration:
        """All of it.

        Raises:
            TransferError: something is missing.
            ConfigurationError: its middlewares cannot be had in this process.
        """
        if self._head is None:
            raise TransferError("nothing came")
        settings, backends, tracing, warnings, hazards, environment, *tables, positions, count = self._head
        if count != len(self._routes):
            raise TransferError("routes are missing")
        document_backends, document_middlewares = tables
        document = Document(
            document_backends, tuple([entry for _, entry in self._routes]), middlewares=document_middlewares
        )
        middlewares = _middlewares(environment, document, positions)
        routes = tuple([route for route, _ in self._routes])
        return Configuration(settings, backends, routes, tracing, middlewares, warnings, hazards, environment, document)


def _middlewares(environment: Environment, document: Document, positions: Mapping[str, str]) -> Middlewares:
    """The user's own, of this process: a module that it has imported before is not imported again.

    Raises:
        ConfigurationError: what the child has imported is not what is here.
    """
    middlewares = read_middlewares(environment, document)
    problems = list(middlewares.problems)
    problems += [
        Problem(name, None, f"its module has changed, and it stands on the {position} now: start the gateway anew")
        for name, position in positions.items()
        if name in middlewares.named and middlewares.named[name].position != position
    ]
    if problems:
        raise ConfigurationError(problems)
    return middlewares
