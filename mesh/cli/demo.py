"""`isthmus demo`: the whole story, unattended, in a mesh of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from mesh.cli.story.play import Played


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the demo's mesh running afterwards.")
    ] = False,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> int:
    """Runs all regions through the whole story and prints what it measured.

    The mesh is a copy of `mesh.yaml` with ports and state of its own, so it runs beside another.
    Exits with 0 only if every step held.
    """
    import signal
    import sys

    from rich.console import Console

    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.session import run
    from mesh.cli.story.play import Began, play
    from mesh.topology import load

    topology = load(mesh)
    console = Console(stderr=True, highlight=False)
    played: list[Played] = []

    def tell(news: Began | Played) -> None:
        if isinstance(news, Began):
            console.print(f"… {news.name}", markup=False, style="dim", soft_wrap=True)
            return
        played.append(news)
        sign = "held" if news.held else "NOT HELD"
        console.print(
            f"  {sign} in {news.seconds:.1f} s: {news.detail}", markup=False, soft_wrap=True
        )

    # A demo that is told to end stops its mesh first, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.INTERRUPTED))
    held = run(play(topology, tell, keep=keep))
    if as_json:
        output.print_json({"held": held, "steps": [vars(each) for each in played]})
    else:
        _table(played)
        print("\nEvery step held." if held else "\nThe story did not hold.")
    return Exit.OK if held else Exit.FAILED


def _table(played: list[Played]) -> None:
    from mesh.cli import output

    print()
    output.print_table(
        ("STEP", "HELD", "SECONDS", "WHAT WAS SEEN"),
        (
            (step.name, "yes" if step.held else "NO", f"{step.seconds:.1f}", step.detail)
            for step in played
        ),
        "Nothing was played.",
    )
