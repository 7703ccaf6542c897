"""The data service over HTTP: an endpoint parses, calls one use case and returns."""
