"""Measurements against the floor, run by hand; see docs/benchmarks.md."""
