"""The policies by which a backend picks targets, one a file: pure choices, which neither wait nor do I/O.

What they have in common is in :mod:`txgateway.proxy.balancing.policy`; which one a setting names, in
:mod:`txgateway.proxy.balancer`.
"""
