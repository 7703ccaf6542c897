"""The validator's endpoints: each parses, calls one use case, answers."""
