"""Benchmarks of the gateway against its peers; run with ``python -m bench``. Not part of what is installed."""
