"""Predictions made ahead: generations of scored rows in immutable files, looked up by key."""
