"""``txgateway explain``: what the gateway would do with a request, and why, without doing it.

:func:`explain` asks the decorators of a pipeline; :func:`still_pipeline` makes one for those who have none.
"""

from txgateway.explain.asked import Asked
from txgateway.explain.page import explain_query
from txgateway.explain.still import still_pipeline
from txgateway.explain.text import lines
from txgateway.explain.walk import explain

__all__ = ["Asked", "explain", "explain_query", "lines", "still_pipeline"]
