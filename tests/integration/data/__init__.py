"""Tests of the data service against real engines."""
