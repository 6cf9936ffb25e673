"""A resource to mount."""

from __future__ import annotations

from twisted.web.resource import Resource

resource = Resource()
