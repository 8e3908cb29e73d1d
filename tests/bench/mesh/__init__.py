"""Benchmarks of the mesh as something that is deployed: ``python -m tests.bench mesh``."""
