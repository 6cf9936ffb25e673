"""Several processes that are one gateway: a supervisor that serves nothing but the admin port, and its workers."""

from __future__ import annotations
