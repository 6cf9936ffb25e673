"""The end of twisted.web's resource traversal: what all our resources have in common."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource
from zope.interface import implementer


@implementer(IResource)
class Leaf:
    """A resource without children; subclasses say how it renders."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        """Answer the request, or pass it on."""
        raise NotImplementedError

    def getChildWithDefault(self, name: bytes, request: Any) -> Leaf:
        return self

    def putChild(self, path: bytes, child: Any) -> None:
        raise TypeError(f"{type(self).__name__} has no children")
