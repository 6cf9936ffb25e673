"""One Resource decorator a file; :mod:`txgateway.pipeline` alone knows their order."""
