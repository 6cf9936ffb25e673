"""The admin listener: metrics, status and configuration, for operators and never for the gateway's clients."""

from __future__ import annotations
