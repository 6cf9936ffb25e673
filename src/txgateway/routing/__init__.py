"""Which route a request belongs to: canonical paths and the compiled route table.

Pure rules on wire bytes. What a route does with the request is the pipeline's business.
"""
