"""`sing workshop`: what a teacher prepares, and what a participant's laptop is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Prepare the three-hour workshop, or check a laptop for it.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty, or not there yet.")]


@app.command()
def prepare(
    folder: Folder,
    solved: Annotated[bool, typer.Option("--solved", help="With the solutions, for the teacher.")] = False,
) -> None:
    """Write the six notebooks, without their solutions, and the bundle of matrices that they read."""
    from sing_utils.checkout import project_root
    from sing_utils.workshop import stick

    for path in stick.prepare(project_root(), folder, solved=solved):
        typer.echo(str(path))
    typer.echo(f"Begin: jupyter lab {folder}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder with the notebooks.")] = Path("."),
) -> None:
    """Is this laptop ready? Prints the versions found, and a code word that depends on them."""
    from sing_utils.workshop import laptop

    typer.echo("Looking at this laptop: half a minute at most ...")
    found = laptop.versions()
    for name, version in found.items():
        typer.echo(f"{name} {version}")
    typer.echo(laptop.require_bundle(folder))
    typer.echo(f"This laptop is ready. Code word: {laptop.code_word(found)}")


@app.command()
def pack(
    folder: Folder,
    torch_index: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where to get PyTorch's CPU builds, on Linux; default: CUDA's."),
    ] = None,
) -> None:
    """Fill a stick: notebooks, bundle, built book, checkout, and every package for this system.

    Needs a network, once. On the laptops, `python3 install.py` needs none.
    """
    from sing_utils.checkout import project_root
    from sing_utils.workshop import stick

    size = stick.pack(project_root(), folder, torch_index=torch_index)
    typer.echo(f"{folder}: {size:.1f} GB. Read START_HERE.txt there, and try it on one laptop.")
