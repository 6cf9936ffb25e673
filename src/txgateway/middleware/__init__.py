"""One Resource decorator a file; :mod:`txgateway.pipeline` alone knows their order.

Here is what a middleware from outside needs: subclass :class:`Middleware`, raise a :class:`GatewayError`.
"""

from twisted.web.server import NOT_DONE_YET

from txgateway.errors import GatewayError
from txgateway.middleware.base import Inner, Middleware
from txgateway.middleware.context import Context
from txgateway.request import GatewayRequest

__all__ = ["NOT_DONE_YET", "Context", "GatewayError", "GatewayRequest", "Inner", "Middleware"]
