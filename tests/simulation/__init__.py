"""Regions in one thread and no real time: the real core on a fake network, clock and disk.

Everything that happens is a list of lines, `steps.py` says which. A seed makes such a list
(`plans.py`); the world (`world.py`) runs it; a model that knows nothing of how the core works
(`model.py`) checks what every region shows; a list that fails is made short (`shrink.py`).

`python -m tests.simulation --help` runs many seeds.
"""
