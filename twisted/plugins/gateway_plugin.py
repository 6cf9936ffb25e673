"""Tells twistd that there is a ``gateway``. twistd imports every plugin to list them: nothing heavy here."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

gateway = ServiceMaker(
    "gateway",
    "txgateway.tap",
    "An API gateway: a fast, safe reverse proxy configured by GATEWAY_* variables.",
    "gateway",
)
