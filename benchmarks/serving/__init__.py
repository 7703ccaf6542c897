"""How fast serving answers, as a share of what the HTTP server alone can do on the same core: `python -m benchmarks.serving`."""
