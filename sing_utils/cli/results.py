"""The commands of `sing` that read what runs left: `results` prints tables, `compare` two runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sing_utils.errors import SingError


class Format(StrEnum):
    """How a table is printed."""

    text = "text"
    csv = "csv"
    markdown = "markdown"


def results(
    profile: Annotated[
        str, typer.Option(help="Whose run in _build/runs; see --run for others.")
    ] = "embedded",
    run: Annotated[
        str | None, typer.Option(help="Name of a run in _build/runs, or its folder, instead of --profile.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="One table, whole, whether a headline or not.")] = None,
    format: Annotated[Format, typer.Option(help="csv, with every digit, needs --table.")] = Format.text,
) -> None:
    """Print the headline tables of a run."""
    from sing_utils.checkout import project_root
    from sing_utils.cli.tables import HEADLINES, describe, headline, readable, render
    from sing_utils.runs.results import Results, without_pictures

    if format is Format.csv and table is None:
        raise SingError("--format csv was given without --table, expected both: a CSV holds one table.")
    opened = Results.open(project_root(), run or profile)
    whole = None if table is None else without_pictures(opened.table(table))
    # In a CSV nothing but the table is on stdout.
    typer.echo("\n".join(describe(opened)), err=format is Format.csv)
    if whole is not None and format is Format.csv:
        typer.echo(whole.to_csv(index=False), nl=False)
        return
    markdown = format is Format.markdown
    if whole is not None:
        typer.echo(f"\n{render(readable(whole), markdown=markdown)}")
        return
    # Without rows is, for one, what compares two classifiers in a run of one.
    shown = [name for name in HEADLINES if name in opened.names and not opened.table(name).empty]
    for name in shown:
        level = opened.record.get("parameters", {}).get("confidence")
        how = f", with {level:.0%} intervals" if level and HEADLINES[name].intervals else ""
        typer.echo(f"\n{'### ' * markdown}{HEADLINES[name].title}{how}  [{name}]\n")
        typer.echo(render(headline(name, opened.table(name)), markdown=markdown))
    others = [name for name in opened.names if name not in shown]
    typer.echo(f"\nFurther tables, for --table: {', '.join(others) or 'none'}.")


def compare(
    run_a: Annotated[str, typer.Argument(help="Name of a run in _build/runs, or a run's folder.")],
    run_b: Annotated[str, typer.Argument(help="The other one.")],
    tolerance: Annotated[
        float, typer.Option(help="Numbers that differ by no more than this, in their own unit, are equal.")
    ] = 0.0,
    every: Annotated[
        bool, typer.Option("--all", help="List every column that differs, not only what matters most.")
    ] = False,
) -> None:
    """Say what differs between two runs and by how much; exit code 0: nothing, 1: something.

    Parameters, versions, weights and tables count; dates, commits, machines and seconds do not.
    """
    from sing_utils.checkout import project_root
    from sing_utils.cli.tables import describe, render, sections, summary
    from sing_utils.execute.compare import compare as compare_runs
    from sing_utils.runs.results import Results

    root = project_root()
    a, b = Results.open(root, run_a), Results.open(root, run_b)
    found = compare_runs(a, b, tolerance=tolerance)
    for letter, opened in (("A", a), ("B", b)):
        typer.echo("\n   ".join([f"{letter}  {describe(opened)[0]}", *describe(opened)[1:]]))
    typer.echo(f"\n{summary(found, tolerance)}")
    for title, shown in sections(found, rows=None if every else 20):
        typer.echo(f"\n{title}\n\n{render(shown)}")
    if not found.equal:
        raise typer.Exit(1)
