"""How Relevo is seen from outside: structured logs, request ids, Prometheus metrics, the workers' health endpoint."""
