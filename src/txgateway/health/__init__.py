"""Who is well: the answers given to those who ask whether this gateway is alive and ready."""

from __future__ import annotations
