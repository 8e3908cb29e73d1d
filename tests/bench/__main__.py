"""Runs benchmarks: ``python -m tests.bench [NAME...]``, all of them without a name.

``python -m tests.bench replication --help`` shows the options of the longest one, and
``python -m tests.bench mesh --help`` those of the control plane's.
"""

from __future__ import annotations

import sys

from tests.bench import call, lag, up
from tests.bench.mesh import command as mesh
from tests.bench.replication import command as replication
from tests.bench.rows import report

BENCHMARKS = {"up": up.measure, "call": call.measure, "lag": lag.measure}


def main(names: list[str]) -> int:
    """The exit code: 2 for an unknown name."""
    if names[:1] == ["replication"]:
        return replication.main(names[1:])
    if names[:1] == ["mesh"]:
        return mesh.main(names[1:])
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
        return 2
    for name in names or BENCHMARKS:
        report(name, BENCHMARKS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
