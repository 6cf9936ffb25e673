"""Turns whatever goes wrong while a request is dispatched into one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import GatewayError, InternalError
from txgateway.middleware.base import Middleware

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_log = Logger(__name__)


class Recovery(Middleware):
    """The outermost decorator.

    Position: above everything, so that nothing escapes into the transport.
    Refuses: nothing itself; an unexpected exception becomes INTERNAL_ERROR, with its traceback in the log only.
    On cancel: nothing to free.
    """

    def render(self, request: GatewayRequest) -> Any:
        try:
            self.inner.render(request)
        except GatewayError as error:
            request.fail(error)
        except Exception:
            _log.failure("request failed", request_id=request.request_id)
            request.fail(InternalError())
        return NOT_DONE_YET
