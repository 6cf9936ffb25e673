"""The least that a user's middleware does: it reads a header. Its cost is that of having one.

``python -m bench driver --gateway-env GATEWAY_MIDDLEWARES=bench.header_reader:HeaderReader --against-env GATEWAY_MIDDLEWARES=``
"""

from __future__ import annotations

from typing import Any

from txgateway.middleware import GatewayError, GatewayRequest, Middleware


class Nobody(GatewayError):
    status, reason, title = 403, "NOBODY", "Forbidden"


class HeaderReader(Middleware):
    def render(self, request: GatewayRequest) -> Any:
        if request.header(b"x-nobody") is not None:
            raise Nobody
        return self.inner.render(request)
