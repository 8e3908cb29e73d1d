"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MeshPath = Annotated[
    Path, typer.Option("--mesh", envvar="ISTHMUS_MESH", help="The mesh's topology.", metavar="PATH")
]
Prefer = Annotated[
    str,
    typer.Option("--region", "-r", help="Try this region's edge first.", metavar="REGION"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MESH = Path("mesh.yaml")
