"""The trainer's routes, one file a resource."""
