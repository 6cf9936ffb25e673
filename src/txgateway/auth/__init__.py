"""Who the caller is: keys (static, JWKS), token validation, verified tokens kept. Knows nothing of requests."""
