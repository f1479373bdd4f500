"""The commands of `sing` that read what runs left: `results` prints tables, `compare` two runs."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from sing_utils.errors import SingError
from sing_utils.runs.results import Results, without_pictures
from sing_utils.show.findings import SIGNIFICANCE

if TYPE_CHECKING:
    from sing_utils.execute.compare import Comparison


class Format(StrEnum):
    """How a table is printed."""

    text = "text"
    csv = "csv"
    markdown = "markdown"


REHEARSAL = "This is a rehearsal: random weights and generated pictures. No number means anything."


@dataclass(frozen=True)
class Headline:
    """How one of the main tables is shown.

    Attributes:
        title: above it, in words.
        columns: column -> its heading with units, in the order shown; empty: all as they are.
        intervals: columns that are shown with their interval in the same cell.
        ends: columns of the intervals' ends.
        starred: whether such a cell has a star where its corrected p (column q) is below 0.05.
        across: column whose values become columns; the rows are then what is left.
        turned: a row becomes a column, for tables of many columns and one row a classifier.
    """

    title: str
    columns: dict[str, str] = field(default_factory=dict)
    intervals: tuple[str, ...] = ()
    ends: tuple[str, str] = ("low", "high")
    starred: bool = False
    across: str | None = None
    turned: bool = False


HEADLINES = {
    "findings": Headline(
        "What the run found", {"id": "about", "measured": "found", "verdict": "on the paper's claim"}
    ),
    "heads": Headline("Heads and their null spaces; without it the logits stay"),
    "translator_fits": Headline("Translators, on held-out photos"),
    "spreads": Headline(
        "Image Score and Attribute Score of null removal",
        {
            "classifier": "classifier",
            "photos": "photos",
            "mean contrast (°)": "mean contrast (°)",
            "contrast low": "from",
            "contrast high": "to",
            "mean AS (°)": "mean AS (°)",
            "median |AS| (°)": "median |AS| (°)",
            "median IS (°)": "median IS (°)",
            "IS / |AS|": "IS / |AS|",
            "log variance ratio": "log (Var IS / Var AS)",
        },
        intervals=("log variance ratio",),
    ),
    "class_medians": Headline(
        "Median |AS| of each class (°)",
        {"classifier": "classifier", "class": "class", "value": "median |AS| (°)"},
        intervals=("value",),
        across="classifier",
    ),
    "class_scores": Headline(
        "Mean contrast of each class (°; *: differs from 0, corrected p < 0.05)",
        {"classifier": "classifier", "class": "class", "contrast": "contrast (°)"},
        intervals=("contrast",),
        ends=("contrast low", "contrast high"),
        starred=True,
        across="classifier",
    ),
    "rank_correlations": Headline(
        "Do two classifiers order the classes alike? Spearman's rank correlation of median |AS|",
        intervals=("rho",),
    ),
    "steering": Headline(
        "Steering with the logits kept (Table 1)",
        {
            "classifier": "classifier",
            "direction": "direction",
            "target": "target",
            "IS": "IS (°)",
            "steps": "steps",
            "reached": "reached",
            "|AS| mean": "mean |AS| (°)",
            "|AS| sd": "sd |AS| (°)",
            "AS mean": "mean AS (°)",
            "flips": "top-1 changes",
        },
    ),
    "controls": Headline("Controls at a glance"),
    "classifier_differences": Headline("Do two classifiers differ?", intervals=("difference",)),
    "subspace_control": Headline("Control: the null space among random subspaces", intervals=("chance",)),
    "prompt_control": Headline("Control: other wordings of the class prompt", turned=True),
    "translator_control": Headline(
        "Control: what the translator knows of null directions, and finds where they mean nothing",
        turned=True,
    ),
    "encoder_control": Headline("Control: other encoders as the judge"),
    "rank_control": Headline("Control: other rules for the rank"),
    "steering_best": Headline("The best null step beside the gradient"),
    "steering_beyond": Headline("Steering beyond the logits, in standard deviations"),
}
_DEGREES = {"AS", "IS", "|AS|", "|AS| mean", "|AS| sd", "AS mean", "AS sd"}
_SIGNIFICANT = 4
_MOST = 20  # columns that `sing compare` lists
_ANY_WIDTH = 100_000  # characters
_LONGEST_WORD = 40
_GAP = 2  # between two columns


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

    if format is Format.csv and table is None:
        raise SingError("--format csv was given without --table, expected both: a CSV holds one table.")
    opened = Results.open(project_root(), run or profile)
    whole = opened.table(table) if table is not None else None
    if format is Format.csv and whole is not None:  # nothing but the table on stdout
        typer.echo("\n".join(describe(opened)), err=True)
        typer.echo(without_pictures(whole).to_csv(index=False), nl=False)
        return
    typer.echo("\n".join(describe(opened)))
    if whole is not None and table is not None:
        typer.echo(f"\n{render(readable(without_pictures(whole)), format)}")
        return
    # Without rows is, for one, what compares two classifiers in a run of one.
    shown = [name for name in HEADLINES if name in opened.names and not opened.table(name).empty]
    for name in shown:
        level = opened.record.get("parameters", {}).get("confidence")
        how = f", with {level:.0%} intervals" if level and HEADLINES[name].intervals else ""
        heading = f"{HEADLINES[name].title}{how}  [{name}]"
        typer.echo(f"\n{'### ' if format == 'markdown' else ''}{heading}\n")
        typer.echo(render(headline(name, opened.table(name)), format))
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
    from sing_utils.execute.compare import compare as compare_runs

    root = project_root()
    a, b = Results.open(root, run_a), Results.open(root, run_b)
    found = compare_runs(a, b, tolerance=tolerance)
    for letter, opened in (("A", a), ("B", b)):
        typer.echo("\n   ".join([f"{letter}  {describe(opened)[0]}", *describe(opened)[1:]]))
    typer.echo(f"\n{summary(found, tolerance)}")
    for title, shown in sections(found, rows=None if every else _MOST):
        typer.echo(f"\n{title}\n\n{render(shown)}")
    if not found.equal:
        raise typer.Exit(1)


def summary(found: Comparison, tolerance: float = 0.0) -> str:
    """One line: equal, or how much of what differs."""
    tables = len(found.tables)
    within = f" within {tolerance:g}" if tolerance else ""
    record = "" if found.recorded else " Only tables were compared: a run without run.json says no more."
    skipped = f" Not compared: {', '.join(found.skipped)}." if found.skipped else ""
    if found.equal:
        return f"The runs are equal{within}: {_count(tables, 'table')}.{record}{skipped}"
    alone = len(found.only_a) + len(found.only_b)
    counts = [
        _count(len(found.parameters), "parameter"),
        _count(len(found.versions), "version"),
        _count(len(found.revisions), "revision"),
        _count(len(found.columns), "column") + f" of {_count(found.columns['table'].nunique(), 'table')}",
        _count(len(found.rows), "row") + " without a partner",
        _count(alone, "table") + " in one run only",
        _count(int((found.tables["note"] != "").sum()), "table") + " of another form",
    ]
    told = "; ".join(c for c in counts if not c.startswith("0 "))
    beyond = f" by more than {tolerance:g}" if tolerance else ""
    return f"The runs differ{beyond}: {told}; {_count(tables, 'table')} in both.{record}{skipped}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def sections(found: Comparison, *, rows: int | None = None) -> list[tuple[str, pd.DataFrame]]:
    """A comparison as tables of texts with their titles, those without rows left out.

    Args:
        found: what `compare_runs.compare` returned.
        rows: most columns that are listed; None: all.
    """
    from sing_utils.execute.compare import value_text

    made: list[tuple[str, pd.DataFrame]] = []
    named = (
        ("Parameters", found.parameters),
        ("Versions", found.versions),
        ("Weights and pictures", found.revisions),
    )
    for title, values in named:
        pairs = [(r.key, value_text(r.a, r.b), value_text(r.b, r.a)) for r in values.itertuples()]
        made.append((title, pd.DataFrame(pairs, columns=["what", "A", "B"], dtype=str)))
    listed = found.columns.head(rows) if rows is not None else found.columns
    more = len(found.columns) - len(listed)
    title = "Numbers, what matters most first" + (f"; {more} more columns with --all" if more else "")
    made.append((title, _column_texts(listed)))
    made.append(("Rows that only one run has", _row_texts(found.rows)))
    notes = found.tables[found.tables["note"] != ""]
    made.append(("Tables of another form", notes[["table", "note"]].astype(str)))
    alone = [(run, ", ".join(names)) for run, names in (("A", found.only_a), ("B", found.only_b)) if names]
    made.append(("Tables that only one run has", pd.DataFrame(alone, columns=["run", "tables"], dtype=str)))
    return [(title, shown) for title, shown in made if len(shown)]


def _column_texts(columns: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "table": r.table,
            "column": r.column,
            "rows that differ": f"{r.differ} of {r.rows}",
            "largest": _text(r.largest, _places(r)),
            "median": _text(r.median, _places(r)),
            "largest in": r.where,
            "outside the interval": "–" if math.isnan(r.outside) else f"{r.outside:.0f} of {r.rows}",
        }
        for r in columns.itertuples()
    ]
    return pd.DataFrame(rows, dtype=str)


def _places(row: Any) -> int | None:
    return _decimals(pd.Series([row.largest, row.median], dtype=float))


def _row_texts(rows: pd.DataFrame) -> pd.DataFrame:
    made = []
    for table, own in rows.groupby("table", sort=False):
        counts = {f"only in {run}": str(int((own["run"] == run).sum())) for run in ("A", "B")}
        made.append({"table": table, **counts, "such as": own["row"].iloc[0]})
    return pd.DataFrame(made, dtype=str)


def describe(opened: Results) -> list[str]:
    """A line that says which run this is, and a warning for a rehearsal."""
    from sing_utils.execute.records import device

    record = opened.record
    if not record:
        return [f"Run {opened.run}; it has no run.json yet, which `sing run` writes: call it again."]
    code = record.get("code", {})
    commit = f", commit {code['commit'][:10]}" if code.get("commit") else ""
    parts = [
        f"Run {opened.run}",
        f"profile {record.get('profile')}",
        str(record.get("date") or "no date").replace("T", " ").replace("Z", " UTC"),
        f"sing_utils {code.get('sing_utils')}{commit}{' with changes' if code.get('dirty') else ''}",
        device(record.get("hardware", {})),
    ]
    lines = [" · ".join(parts)]
    old = [name for name, stage in record.get("stages", {}).items() if stage.get("current") is False]
    if old:
        lines.append(f"Made before something changed, and not again since: {', '.join(old)}.")
    return [*lines, REHEARSAL] if record.get("rehearsal") else lines


# ------------------------------------------------------------------------------------- tables as text


def headline(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """One of the main tables as people read it: headings with units, a few digits, all of it text."""
    how = HEADLINES[name]
    texts = readable(table)
    for column in how.intervals:
        if {column, *how.ends} <= set(table):
            low, high = (_texts(table[c], _decimals(table[column])) for c in how.ends)
            values = _texts(table[column], _decimals(table[column]))
            cells = zip(values, low, high, strict=True)
            texts[column] = [v if lo == "–" else f"{v} [{lo}, {hi}]" for v, lo, hi in cells]
            if how.starred and "q" in table:
                small = table["q"] < SIGNIFICANCE
                texts[column] += small.map({True: " *", False: ""}).to_numpy()
            texts = texts.drop(columns=list(how.ends))
    kept = [c for c in how.columns if c in texts] or list(texts)
    texts = texts[kept]
    if how.across is not None and how.across in texts:
        texts = _wide(texts, how.across)
    headings = {c: how.columns.get(c, f"{c} (°)" if c in _DEGREES else c) for c in texts}
    texts = texts.rename(columns=headings)
    if how.turned and len(texts) and "classifier" in texts and not texts["classifier"].duplicated().any():
        texts = texts.set_index("classifier").T.rename_axis(index="classifier", columns=None).reset_index()
    return texts


def _wide(texts: pd.DataFrame, across: str) -> pd.DataFrame:
    """One column for each value of `across`; as it is where that would lose rows."""
    value = texts.columns[-1]
    rows = [c for c in texts if c not in (across, value)]
    if not rows or texts.duplicated([*rows, across]).any():
        return texts
    wide = texts.pivot(index=rows, columns=across, values=value)  # sorts both
    order = texts[rows].drop_duplicates()
    wide = order.merge(wide.reset_index(), on=rows, how="left").fillna("–")
    return wide[[*rows, *texts[across].unique()]]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text: about four significant digits a column, yes and no, – for nothing."""
    return pd.DataFrame({c: _texts(table[c], _decimals(table[c])) for c in table}, dtype=str)


def _decimals(column: pd.Series) -> int | None:
    """Decimals for a column's largest number; None: too small or too large, write powers of ten."""
    if not pd.api.types.is_float_dtype(column):
        return 0
    sizes = column.abs().replace(math.inf, math.nan).dropna()
    largest = float(sizes.max()) if len(sizes) else 0.0
    if largest == 0 or (column.dropna() % 1 == 0).all():
        return 0
    if not 1e-3 <= largest < 1e6:
        return None
    return min(_SIGNIFICANT - 1, max(0, _SIGNIFICANT - 1 - math.floor(math.log10(largest))))


def _texts(column: pd.Series, decimals: int | None) -> list[str]:
    return [_text(x, decimals) for x in column]


def _text(x: Any, decimals: int | None) -> str:
    if isinstance(x, bool | type(pd.Series([True])[0])):
        return "yes" if x else "no"
    if isinstance(x, float) or hasattr(x, "dtype"):
        number = float(x)
        if math.isnan(number):
            return "–"
        if math.isinf(number):
            return "∞" if number > 0 else "−∞"
        if decimals is None:
            return f"{number:.1e}"
        text = f"{number:.{decimals}f}"
        return f"{number:.1g}" if number and float(text) == 0 else text  # what is not 0 does not look it
    return "–" if x is None or x is pd.NA else str(x)


def render(texts: pd.DataFrame, format: Format = Format.text) -> str:
    """A table of texts for a terminal, or as Markdown; one without rows is said to have none."""
    if texts.empty:
        return f"(no row; columns: {', '.join(map(str, texts)) or 'none'})"
    if format is Format.markdown:
        rows = [list(texts), [":--" if _is_words(texts[c]) else "--:" for c in texts], *texts.to_numpy()]
        return "\n".join("| " + " | ".join(_cell(x) for x in row) + " |" for row in rows)
    return _rich(texts)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _is_words(column: pd.Series) -> bool:
    """Whether a column is to be read from the left: not of numbers, nor of numbers with an interval."""
    return not column.str.match(r"^([-−+]?[\d.]+(e[-+]?\d+)?( \[.*\])?|–|[−]?∞)$").all()


def _rich(texts: pd.DataFrame) -> str:
    """With rich, as wide as the terminal; for a file or a pipe as wide as it needs, nothing cut."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _ANY_WIDTH, no_color=not terminal, highlight=False)
    with console.capture() as captured:
        for i, part in enumerate(_parts(texts, console.width)):
            console.print(*([""] if i else []), _grid(part, console.width), sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").splitlines())


def _grid(texts: pd.DataFrame, width: int) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    # rich narrows every column alike and then cuts what sticks out: so we say how wide each is.
    least = [_width(str(name), texts[name]) for name in texts]
    most = [max(map(cell_len, [str(name), *texts[name]])) for name in texts]
    spare, wanted = width - sum(least) - _GAP * (len(least) - 1), sum(most) - sum(least)
    share = min(1.0, max(0.0, spare / wanted)) if wanted else 0.0
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name, low, high in zip(texts, least, most, strict=True):
        justify: Any = "left" if _is_words(texts[name]) else "right"
        wide = low + int(share * (high - low))
        grid.add_column(Text(str(name)), justify=justify, overflow="fold", width=wide)
    for row in texts.to_numpy():
        grid.add_row(*(Text(str(x)) for x in row))
    return grid


def _width(name: str, column: pd.Series) -> int:
    """The least width of a column: numbers do not break, words do between words."""
    from rich.cells import cell_len

    heading = max(map(cell_len, name.split()), default=1)
    cells = column if not _is_words(column) else [w for x in column for w in str(x).split()]
    return max(heading, min(_LONGEST_WORD, max(map(cell_len, cells), default=1)))


def _parts(texts: pd.DataFrame, width: int) -> list[pd.DataFrame]:
    """A table that is too wide for the terminal in parts, each with the words that name its rows."""
    names, widths = list(texts), [_width(str(c), texts[c]) + _GAP for c in texts]
    first = next((i for i, c in enumerate(names) if not _is_words(texts[c])), len(names))
    if sum(widths) - _GAP <= width or first == len(names):
        return [texts]
    while first > 1 and sum(widths[:first]) > width / 2:
        first -= 1
    parts: list[list[int]] = [[]]
    for i in range(first, len(names)):
        if parts[-1] and sum(widths[:first]) + sum(widths[j] for j in parts[-1]) + widths[i] - _GAP > width:
            parts.append([])
        parts[-1].append(i)
    return [texts.iloc[:, [*range(first), *part]] for part in parts]
