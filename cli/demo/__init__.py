"""The flagship demonstration: a year of real flights through the whole loop, in event time, over the public HTTP APIs."""
