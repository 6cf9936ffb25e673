"""txgateway: an API gateway on Twisted.

Start it with ``twistd gateway``; :mod:`txgateway.pipeline` is the map of what happens to a request.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("txgateway")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
