"""What is told of a route's end: the backend with its targets, times and retries, or the answer that is given here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import frozen

from txgateway.answers import Mounted
from txgateway.config import Route
from txgateway.config.values import format_duration, format_size
from txgateway.errors import GatewayError
from txgateway.explain.asked import StillChannel
from txgateway.middleware.base import Inner
from txgateway.proxy.backend import Backend
from txgateway.proxy.reverse_proxy import ReverseProxyResource, Share, SplitResource
from txgateway.proxy.target import Target
from txgateway.request import GatewayRequest

#: Settings by key: ``{"value": …, "source": …}``.
Settings: TypeAlias = Mapping[str, Mapping[str, Any]]

#: Keys of a route that its end goes by.
ROUTE_KEYS: Final = ("timeout.total", "timeout.per_try", "timeout.idle", "timeout.propagate", "body_timeout")
RETRY_KEYS: Final = (
    "retry.max_attempts", "retry.on", "retry.methods", "retry.backoff", "retry.backoff_max", "retry.budget_percent",
    "retry.budget_min", "retry.max_body",
)  # fmt: skip
END_KEYS: Final = ("preserve_host", "upgrades")
#: Words of ``retry.on`` that hold for methods that are not repeated: before anything was sent, or by word of the target.
_BEFORE_SENDING: Final = ("connect", "reset", "timeout", "refused_stream", "grpc-unavailable")


@frozen
class RouteEnd:
    """The end of a route, and what is known of it.

    Attributes:
        settings: of the route.
        of_backend: the settings of a backend, by its name.
        claim_headers: lowered names of the fields that hold what a token says, which nobody knows here.
        is_live: the targets are in use.
    """

    node: Inner
    route: Route
    settings: Settings
    of_backend: Callable[[str], Settings]
    claim_headers: frozenset[str]
    is_live: bool

    def describe(self, request: GatewayRequest, channel: StillChannel) -> dict[str, Any]:
        """What becomes of a request that comes here.

        Args:
            channel: of the request, which forgets it when it is answered.

        Raises:
            GatewayError: it is refused.
        """
        node = self.node
        if isinstance(node, SplitResource | ReverseProxyResource):
            shares = node.shares if isinstance(node, SplitResource) else (Share(node, 1),)
            if not shares[0].end.answers_as_last_hop(request):
                return self._forwarded(request, shares)
        elif isinstance(node, Mounted):
            keys = ("timeout.total", "timeout.idle", "body_timeout")
            return {"is": "resource", "resource": self.route.resource, "settings": self._of(keys)}
        else:
            node.render(request)
        status, headers = channel.sent or (0, [])
        fields = [[_text(name), _text(value)] for _, name, value in headers]
        return {"is": "answer", "by": type(node).__name__, "status": status, "headers": fields}

    def _of(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: self.settings[key] for key in keys}

    # --- to a backend ---------------------------------------------------------------------------------------------

    def _forwarded(self, request: GatewayRequest, shares: Sequence[Share]) -> dict[str, Any]:
        total = sum(share.weight for share in shares)
        upgrade = request.upgrade.lower()
        first = shares[0].end
        return {
            "is": "backend",
            "method": _text(request.method),
            "target": _text(request.upstream_target or request.uri),
            "upgrade": None if not upgrade else ("passed on" if upgrade in first.settings.upgrades else "taken out"),
            "backends": [self._backend(share.end, share.weight / total, request) for share in shares],
            "settings": self._of((*END_KEYS, *ROUTE_KEYS)),
            "retry": self._retries(first, request.method),
        }

    def _retries(self, end: ReverseProxyResource, method: bytes) -> dict[str, Any]:
        policy, retry = end.retry, self.route.retry
        is_repeated = method in policy.methods
        conditions = retry.on if is_repeated else tuple(word for word in retry.on if word in _BEFORE_SENDING)
        limits = [format_duration(policy.backoff_s(number, lambda: 1.0)) for number in range(1, policy.max_attempts)]
        return {
            "attempts": policy.max_attempts,
            "method_is_repeated": is_repeated and policy.max_attempts > 1,
            "on": list(conditions) if policy.max_attempts > 1 else [],
            "only_if_nothing_was_sent": not is_repeated,
            "waits_up_to": limits[:10],
            "budget": f"{policy.percent}% of the backend's requests, and {policy.minimum}",
            "body_kept": format_size(end.kept_bytes(method)),
            "settings": self._of(RETRY_KEYS),
        }

    def _backend(self, end: ReverseProxyResource, share: float, request: GatewayRequest) -> dict[str, Any]:
        backend = end.backend
        chosen, why = self._chosen(backend, request)
        total = sum(target.weight for target in backend.targets)
        return {
            "backend": backend.name,
            "share": round(share, 4),
            "load_balancer": backend.settings.load_balancer,
            "chosen": chosen,
            "why": why,
            "targets": [self._target(end, target, target.weight / total, request) for target in backend.targets],
            "settings": {key: entry for key, entry in self.of_backend(backend.name).items() if key != "targets"},
        }

    def _target(
        self, end: ReverseProxyResource, target: Target, share: float, request: GatewayRequest
    ) -> dict[str, Any]:
        fields = end.fields.of(request, target, b"", math.inf)
        host = next((value for lowered, _, value in fields if lowered == b"host"), b"")
        told: dict[str, Any] = {
            "target": target.label,
            "address": target.address,
            "scheme": target.scheme,
            "weight": target.weight,
            "share": round(share, 4),
            "host": _text(host),
        }
        if self.is_live:
            told["health"] = target.health.value
            told["breaker"] = target.breaker.state_at(end.clock.seconds()).label
            told["in_flight"] = target.in_flight
            told["connections"] = {"active": target.pool.active, "idle": target.pool.idle}
        return told

    def _chosen(self, backend: Backend, request: GatewayRequest) -> tuple[str | None, str]:
        """The target of a policy that goes by the request, and what it goes by."""
        balancer = backend.settings.load_balancer
        if not balancer.startswith("hash:"):
            return None, "it does not go by the request"
        kind, _, name = balancer.removeprefix("hash:").partition(":")
        if kind == "header" and name.lower() in self.claim_headers:
            return None, f"by {name}, which comes from the token"
        try:
            target = backend.pick(request)
        except GatewayError as refusal:
            return None, f"none can be used: {refusal.reason}"
        note = "" if self.is_live else ", as long as all can be used and names have one address"
        return target.address, f"by {f'{kind} {name}'.strip()}{note}"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
