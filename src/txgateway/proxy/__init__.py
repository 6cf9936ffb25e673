"""From an admitted request to a target: pools, balancers, breakers, attempts."""
