"""Tests of the data service's pure rules."""
