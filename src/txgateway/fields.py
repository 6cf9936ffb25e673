"""Lists of response fields, and how the gateway puts its own among them without looking through all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from txgateway.headers import is_field_value, is_token

if TYPE_CHECKING:
    from txgateway.transport.interfaces import Header, HeaderList


_extend = list.extend


class ReceivedHeaders(list[tuple[bytes, bytes, bytes]]):
    """A response's fields as a target sent them, with their names, and with their lines if those are at hand.

    Whoever has fields to put there finds out by the names whether they are there already. Names and lines hold as long
    as the list only grows, by :meth:`grow`; any other change in place drops them, and then this is a list like
    all others.

    Attributes:
        names: its keys are the lowered names, and perhaps some more; None once dropped.
        shared: how many fields, at the beginning, ``wire`` stands for.
        wire: those fields as HTTP/1.1 field lines.
    """

    __slots__ = ("names", "shared", "wire")

    names: dict[bytes, bytes] | None

    def __init__(self, fields: Iterable[Header], names: dict[bytes, bytes], wire: bytes) -> None:
        super().__init__(fields)
        self.names = names
        self.shared = len(self) if wire else 0
        self.wire = wire

    def grow(self, fields: Sequence[Header], names: Mapping[bytes, bytes], wire: bytes) -> None:
        """Put ``fields``, with their names and lines, at the end; to be called while there are :attr:`names`."""
        self.names.update(names)  # type: ignore[union-attr]
        if wire and self.shared == len(self):
            self.wire += wire
            self.shared += len(fields)
        _extend(self, fields)


def _dropping_names(name: str) -> Any:
    change = getattr(list, name)

    @wraps(change)
    def method(self: ReceivedHeaders, *args: Any, **options: Any) -> Any:
        self.names = None
        return change(self, *args, **options)

    return method


for _name in (
    "__delitem__", "__iadd__", "__imul__", "__setitem__", "append", "clear", "extend", "insert", "pop", "remove", "reverse",
    "sort",
):  # fmt: skip
    setattr(ReceivedHeaders, _name, _dropping_names(_name))


def problem_of_head(status: object, headers: object) -> str:
    """What makes it impossible to send this status with these fields; empty if nothing does.

    RFC 9110 sections 5.1, 5.5 and 15: names are tokens, values have no line ends, a final status is 200 to 599, and 101.
    """
    if not isinstance(status, int) or not (200 <= status <= 599 or status == 101):
        return f"status {status!r:.50}"
    if not isinstance(headers, list):
        return f"fields are a {type(headers).__name__}, and no list"
    for field in headers:
        if not isinstance(field, tuple) or len(field) != 3 or not all(isinstance(part, bytes) for part in field):
            return f"field {field!r:.100}: expected (lowered name, name, value), in bytes"
        lowered, name, value = field
        if not is_token(name) or lowered != name.lower() or not is_field_value(value):
            return f"field {name!r:.100}"
    return ""


def has_field(headers: HeaderList, lowered: bytes) -> bool:
    """Whether there is a field of this name."""
    if headers.__class__ is ReceivedHeaders and headers.names is not None:
        return lowered in headers.names
    return any(header[0] == lowered for header in headers)


class Fields:
    """Fields that are put into many lists, made ready for that.

    Attributes:
        fields: as in a header list.
        names: their lowered names, as keys.
        wire: their lines.
    """

    __slots__ = ("fields", "names", "wire")

    def __init__(self, fields: Iterable[Header]) -> None:
        self.fields = tuple(fields)
        self.names = {field[0]: b"" for field in self.fields}
        self.wire = b"".join(b"%b: %b\r\n" % (name, value) for _, name, value in self.fields)

    def added_to(self, headers: HeaderList) -> HeaderList:
        """``headers`` with these at the end; the list itself may be changed and returned."""
        if headers.__class__ is ReceivedHeaders and headers.names is not None:
            headers.grow(self.fields, self.names, self.wire)
        else:
            headers += self.fields
        return headers

    def replaced_in(self, headers: HeaderList, names: Mapping[bytes, bytes] | None = None) -> HeaderList:
        """The same, without any other field of these names, or of those that ``names`` has as keys instead."""
        return replaced(headers, self.fields, self.names if names is None else names, self.wire)


def replaced(headers: HeaderList, fields: Sequence[Header], names: Mapping[bytes, bytes], wire: bytes) -> HeaderList:
    """``headers`` with ``fields``, whose lines are ``wire``, at the end, and no others of ``names`` (its keys).

    The list itself may be changed and returned.
    """
    if headers.__class__ is ReceivedHeaders and headers.names is not None and headers.names.keys().isdisjoint(names):
        headers.grow(fields, names, wire)
        return headers
    headers = [header for header in headers if header[0] not in names]
    headers += fields
    return headers
