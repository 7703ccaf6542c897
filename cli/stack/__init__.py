"""The embedded stack: PostgreSQL and Valkey from wheels, and the product's own processes, under one small supervisor."""
