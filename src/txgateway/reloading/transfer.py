"""A configuration as frames of bytes, which are read one at a time: ten thousand routes in one go would stall.

Groups of settings that are equal are sent once, and are one object at the other end, as they are where they come from.
Both ends are this program: what is unpickled is our own.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from io import BytesIO
from struct import Struct
from typing import Any, Final

from txgateway.config import Configuration, Problem
from txgateway.config.document import Document
from txgateway.config.groups import Table

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
        """
        if self._head is None:
            raise TransferError("nothing came")
        settings, backends, tracing, warnings, hazards, environment, document_backends, count = self._head
        if count != len(self._routes):
            raise TransferError("routes are missing")
        document = Document(document_backends, tuple([entry for _, entry in self._routes]))
        routes = tuple([route for route, _ in self._routes])
        return Configuration(settings, backends, routes, tracing, warnings, hazards, environment, document)
