"""A configuration with something of everything that a request may meet, for tests of ``explain``."""

from __future__ import annotations

from typing import Any

import jwt
from tests.unit.support import EPOCH_S

SECRET = "0123456789abcdef0123456789abcdef"
#: What must never be shown.
PASSWORD = "hunter2-hunter2"

ENVIRONMENT = {
    "GATEWAY_JWT_SECRET": SECRET,
    "GATEWAY_JWT_AUDIENCE": "api",
    "GATEWAY_JWT_PUBLIC_PATHS": "/users/public",
    "GATEWAY_TIMEOUT_IDLE": "90s",
    "GATEWAY_RATE_LIMIT": "100/s",
    "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8",
    "GATEWAY_RETRY_MAX_ATTEMPTS": "3",
}

DOCUMENT: dict[str, Any] = {
    "backends": {
        "a": {"targets": ["http://10.1.1.1:81", {"url": "http://10.1.1.2:82", "weight": 3}]},
        "b": {
            "targets": ["http://10.1.2.1", "http://10.1.2.2", "http://10.1.2.3"],
            "load_balancer": "hash:header:X-Shard",
            "timeout": {"connect": "1s"},
        },
    },
    "routes": [
        {
            "name": "api",
            "hosts": ["api.example.com", "*.example.org"],
            "path": "/api",
            "methods": ["GET", "POST"],
            "backend": "a",
            "strip_prefix": True,
            "auth": "none",
            "timeout": {"total": "5s", "per_try": "2s"},
            "allowed_content_types": ["application/json"],
            "rate_limit": {"rate": "50/s", "key": "ip,header:x-api-key"},
            "cors": {"allow_origins": ["https://app.example.com"]},
        },
        {
            "name": "user",
            "path": "/users/{id}/cv",
            "backend": "b",
            "rewrite": "/cv/{id}",
            "rate_limit": {"rate": "50/s", "key": "subject"},
            "jwt": {"claim_headers": {"sub": "X-User"}},
        },
        {"name": "users", "path": "/users", "backend": "b", "preserve_host": True},
        {
            "name": "office",
            "path": "/office",
            "auth": "none",
            "allow_ips": ["192.0.2.0/24"],
            "allowed_methods": ["GET", "DELETE"],
            "backends": [{"name": "a", "weight": 3}, {"name": "b"}],
            "retry": {"methods": ["GET"]},
            "request_headers": {"set": {"X-Api-Key": PASSWORD, "X-Shard": "7"}},
        },
        {
            "name": "beta",
            "path": "/api",
            "headers": {"X-Beta": "1"},
            "auth": "none",
            "response": {"status": 418, "body": "beta"},
        },
        {"name": "whole", "path": "=/api", "auth": "none", "redirect": {"to": "https://new.example.com"}},
        {"name": "old", "hosts": ["old.example.com"], "path": "/", "auth": "none", "redirect": {"to": "/new"}},
    ],
}


def token() -> str:
    """One that the gateway takes."""
    return jwt.encode({"sub": "ann", "aud": "api", "exp": EPOCH_S + 3600}, SECRET, "HS256")
