"""The receiving half of a request: its body, which waits until somebody wants it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from txgateway.errors import BodyTooLarge
from txgateway.transport.interfaces import HeaderList, Headers
from txgateway.web_request import WebRequest


class BodyConsumer(Protocol):
    """Takes a request's body as it comes."""

    def body_received(self, data: bytes) -> None: ...
    def body_ended(self, trailers: HeaderList) -> None: ...


class RequestBody(WebRequest):
    """What comes from the client behind the head; the attributes declared here are set by the subclass.

    Attributes:
        max_body_bytes: what it may have.
        request_trailers: as received.
        removed_names: of fields that were taken out, or replaced; lowered.
    """

    clientproto: bytes
    length: int
    bytes_in: int
    body_complete: bool
    body_wanted: bool
    _consumer: BodyConsumer | None
    _buffered: bytes
    max_body_bytes: float = math.inf
    request_trailers: Headers = ()
    removed_names: frozenset[bytes] = frozenset()
    _unwanted_trailers: tuple[Callable[[bytes], bool], ...] = ()

    def limit_body(self, max_bytes: float) -> None:
        """Refuse a body that declares more than this, or turns out to have more.

        Raises:
            BodyTooLarge: it does already.
        """
        if self.length > max_bytes or self.bytes_in > max_bytes:
            raise BodyTooLarge
        self.max_body_bytes = max_bytes

    def receive_body(self, data: bytes) -> None:
        """The channel has body bytes."""
        if self.ended:
            return
        self.bytes_in += len(data)
        if self.bytes_in > self.max_body_bytes:
            self.fail(BodyTooLarge())
        elif self._consumer is not None:
            self._consumer.body_received(data)
        else:
            self._buffered += data

    def receive_body_end(self, trailers: HeaderList) -> None:
        """The channel has seen the end of the body."""
        self.body_complete = True
        self.request_trailers = trailers
        if self._consumer is not None and not self.ended:
            self._end_body(self._consumer)

    def take_body(self) -> bytes:
        """What has come of the body so far and was not delivered; it is the caller's from now on."""
        taken, self._buffered = self._buffered, b""
        return taken

    def want_body(self, consumer: BodyConsumer) -> None:
        """Deliver the body to ``consumer``: what has come at once, the rest as it comes.

        The request counts as admitted: a client that waits for ``100 Continue`` gets it now.
        """
        self.body_wanted = True
        self._consumer = consumer
        if self._buffered:
            consumer.body_received(self.take_body())
        if self.body_complete:
            self._end_body(consumer)
            return
        if self.bytes_in == 0 and self.length != 0 and b"expect" in self.fields and self.clientproto != b"HTTP/1.0":
            self.channel.send_continue()
        self.channel.resume_body()

    def _end_body(self, consumer: BodyConsumer) -> None:
        # A backend that merges trailers into the header must not see there what was taken out of it.
        trailers = [field for field in self.request_trailers if field[0] not in self.removed_names]
        for is_unwanted in self._unwanted_trailers:
            trailers = [field for field in trailers if not is_unwanted(field[0])]
        consumer.body_ended(trailers)

    def pause_body(self) -> None:
        """Stop the flow of the body for a while."""
        if not self.body_complete:
            self.channel.pause_body()

    def resume_body(self) -> None:
        """Let the body flow again."""
        if not self.body_complete:
            self.channel.resume_body()

    def drop_trailers(self, is_unwanted: Callable[[bytes], bool]) -> None:
        """Pass no trailer on whose lowered name ``is_unwanted`` says yes to."""
        self._unwanted_trailers = (*self._unwanted_trailers, is_unwanted)
