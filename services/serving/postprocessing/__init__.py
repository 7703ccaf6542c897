"""Stages between a score and its answer: pure functions over arrays, compiled once for each configuration, and who changes them."""
