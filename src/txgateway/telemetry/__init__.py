"""What the gateway tells about itself: one stream of log lines, and the numbers behind ``/metrics``.

Nothing here decides about a request, and nothing here may hold one up.
"""

from __future__ import annotations
