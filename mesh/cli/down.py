"""`isthmus down`: stops what `isthmus up` started."""

from __future__ import annotations

from mesh.cli.options import MESH, AsJson, MeshPath


def down(mesh: MeshPath = MESH, as_json: AsJson = False) -> None:
    """Stops the mesh and waits until nothing of it runs."""
    from mesh.cli import output
    from mesh.cli.session import run
    from mesh.local.detach import stop
    from mesh.local.layout import Layout
    from mesh.topology import load

    stopped = run(stop(Layout.of(load(mesh))))
    if as_json:
        output.print_json({"was_up": stopped})
    else:
        print("Everything is stopped." if stopped else "Nothing was running.")
