"""Benchmarks: `make bench` runs all, `make bench-NAME` one. They assert nothing."""
