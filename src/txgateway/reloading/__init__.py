"""A new configuration while the gateway runs: read and judged in a child process, taken over in slices."""
