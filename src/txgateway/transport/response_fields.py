"""The fields of a response as understood, by whichever version of HTTP, for who passes it on."""

from __future__ import annotations

from txgateway.fields import ReceivedHeaders
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import HeaderList


class ResponseFields:
    """End-to-end fields that never change, and that many responses may share."""

    __slots__ = ("_fields", "_names", "_wire")

    _fields: HeaderList
    _names: dict[bytes, bytes]
    _wire: bytes

    def headers(self) -> ReceivedHeaders:
        """The fields, in a list of the caller's own."""
        return ReceivedHeaders(self._fields, self._names.copy(), self._wire)

    def serialise(self) -> None:
        """Have their lines at hand, for a head that comes again."""
        if not self._wire:
            parts: list[bytes] = []
            write_fields(parts, self._fields)
            self._wire = b"".join(parts)
