"""The HTTP rim: each endpoint parses, calls one use case, returns."""
