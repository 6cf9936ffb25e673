"""Looking up the addresses of names, never the same name twice at a time.

A lookup cannot be called off: the reactor's resolver runs ``getaddrinfo`` in one of its few threads, and the thread is
taken until that returns. Who asks for a name that is being looked up already waits for the same answer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from socket import gaierror
from typing import Any, TypeAlias

from twisted.internet._resolver import GAIResolver
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger(__name__)

#: Most addresses of one name that are kept of an answer.
MAX_FOUND = 1024

#: Is told what was found, in the resolver's order; nothing if there is no such name, or the resolver failed.
Asker: TypeAlias = Callable[[Sequence[IAddress]], None]


class Lookups:
    """The lookups of a process: all that ask the same resolver should share one.

    Args:
        resolver: such as the reactor's ``nameResolver``.
    """

    def __init__(self, resolver: IHostnameResolver) -> None:
        self._resolver = _that_always_tells(resolver)
        # Weak: when a resolver drops a lookup without a word, whoever asks next begins a new one.
        self._out: weakref.WeakValueDictionary[str, _Lookup] = weakref.WeakValueDictionary()

    def ask(self, host: str, asker: Asker) -> None:
        """Find the addresses of ``host``.

        Args:
            host: a name.
            asker: told once, perhaps before this returns, perhaps late, and never if the resolver drops the lookup.
                One that asks again while it waits is still told once.
        """
        lookup = self._out.get(host)
        if lookup is not None:
            lookup.askers[asker] = None
            return
        lookup = self._out[host] = _Lookup(host, self, asker)
        try:
            self._resolver.resolveHostName(lookup, host)
        except Exception:
            _log.failure("cannot look up {host}", host=host)
            lookup.resolutionComplete()

    def is_out(self, host: str) -> bool:
        """Whether this name is being looked up at the moment."""
        return host in self._out

    def over(self, host: str) -> None:
        """A lookup's own call: its answer is there."""
        self._out.pop(host, None)


@implementer(IResolutionReceiver)
class _Lookup:
    """One lookup, as the resolver sees it."""

    def __init__(self, host: str, lookups: Lookups, asker: Asker) -> None:
        self.askers: dict[Asker, None] = {asker: None}
        self._host = host
        self._lookups = lookups
        self._found: list[IAddress] = []

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        """Twisted: the resolver has begun."""

    def addressResolved(self, address: IAddress) -> None:
        """Twisted: one more address."""
        if len(self._found) < MAX_FOUND:
            self._found.append(address)

    def resolutionComplete(self) -> None:
        """Twisted: no more addresses."""
        askers, self.askers = self.askers, {}
        if askers:
            self._lookups.over(self._host)
        for asker in askers:
            try:
                asker(self._found)
            except Exception:
                _log.failure("what was found cannot be used")


def _that_always_tells(resolver: IHostnameResolver) -> IHostnameResolver:
    """Twisted's own resolver, which says nothing more when getaddrinfo raises anything but gaierror, made to do so.

    Want of descriptors is an OSError, and a name that cannot be encoded a UnicodeError.
    """
    if type(resolver) is not GAIResolver:
        return resolver
    getaddrinfo = resolver._getaddrinfo

    def find(*question: Any) -> Any:
        try:
            return getaddrinfo(*question)
        except Exception as exc:
            raise gaierror(str(exc)) from exc

    same_but: Any = GAIResolver
    return same_but(resolver._reactor, resolver._getThreadPool, find)  # type: ignore[no-any-return]
