"""The shadow: a version that scores what the live one answered, in a process of its own, for comparison alone."""
