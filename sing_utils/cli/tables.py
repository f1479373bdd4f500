"""Tables and comparisons as texts, for a terminal, a pipe or Markdown.

>>> print(render(readable(pd.DataFrame({"classifier": ["x"], "IS": [5.25]}))))
classifier     IS
─────────────────
x           5.250
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sing_utils.execute.compare import Comparison, value_text
from sing_utils.runs.results import Results
from sing_utils.show.findings import SIGNIFICANCE

REHEARSAL = "This is a rehearsal: random weights and generated pictures. No number means anything."


@dataclass(frozen=True)
class Headline:
    """How one of the main tables is shown.

    Attributes:
        title: above it, in words.
        columns: in the order shown, with headings of `_HEADINGS`; empty: all as they are.
        intervals: columns that are shown with their interval in the same cell.
        ends: columns of the intervals' ends.
        starred: whether such a cell has a star where its corrected p (column q) is below 0.05.
        across: column whose values become columns; the rows are then what is left.
        turned: a row becomes a column, for tables of many columns and one row a classifier.
    """

    title: str
    columns: tuple[str, ...] = ()
    intervals: tuple[str, ...] = ()
    ends: tuple[str, str] = ("low", "high")
    starred: bool = False
    across: str | None = None
    turned: bool = False


_SPREADS = (
    *("classifier", "photos", "mean contrast (°)", "contrast low", "contrast high", "mean AS (°)"),
    *("median |AS| (°)", "median IS (°)", "IS / |AS|", "log variance ratio"),
)
_STEERING = ("classifier", "direction", "target", "IS", "steps", "reached", "|AS| mean", "|AS| sd", "AS mean")
HEADLINES = {
    "findings": Headline("What the run found", ("id", "measured", "verdict")),
    "heads": Headline("Heads and their null spaces; without it the logits stay"),
    "translator_fits": Headline("Translators, on held-out photos"),
    "spreads": Headline(
        "Image Score and Attribute Score of null removal", _SPREADS, intervals=("log variance ratio",)
    ),
    "class_medians": Headline(
        "Median |AS| of each class (°)",
        ("classifier", "class", "value"),
        intervals=("value",),
        across="classifier",
    ),
    "class_scores": Headline(
        "Mean contrast of each class (°; *: differs from 0, corrected p < 0.05)",
        ("classifier", "class", "contrast"),
        intervals=("contrast",),
        ends=("contrast low", "contrast high"),
        starred=True,
        across="classifier",
    ),
    "rank_correlations": Headline(
        "Do two classifiers order the classes alike? Spearman's rank correlation of median |AS|",
        intervals=("rho",),
    ),
    "steering": Headline("Steering with the logits kept (Table 1)", (*_STEERING, "flips")),
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
_HEADINGS = {  # of columns that a headline chose
    "id": "about",
    "measured": "found",
    "verdict": "on the paper's claim",
    "contrast low": "from",
    "contrast high": "to",
    "log variance ratio": "log (Var IS / Var AS)",
    "value": "median |AS| (°)",
    "contrast": "contrast (°)",
    "flips": "top-1 changes",
    "|AS| mean": "mean |AS| (°)",
    "|AS| sd": "sd |AS| (°)",
    "AS mean": "mean AS (°)",
}
_DEGREES = {"AS", "IS", "|AS|", "|AS| mean", "|AS| sd", "AS mean", "AS sd"}
_SIGNIFICANT = 4
_ANY_WIDTH = 100_000  # characters
_GAP = 2  # between two columns


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
        _device(record.get("hardware", {})),
    ]
    lines = [" · ".join(parts)]
    old = [name for name, stage in record.get("stages", {}).items() if stage.get("current") is False]
    if old:
        lines.append(f"Made before something changed, and not again since: {', '.join(old)}.")
    return [*lines, REHEARSAL] if record.get("rehearsal") else lines


def _device(hardware: dict[str, Any]) -> str:
    """Hardware in a few words: its GPUs, else its processor.

    >>> _device({"processor": "A CPU", "cores": 2, "gpus": []}), _device({"gpus": ["H100", "H100"]})
    ('A CPU, 2 cores', '2 × H100')
    """
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)} × {gpus[0]}" if len(gpus) > 1 else str(gpus[0])
    return ", ".join(filter(None, [hardware.get("processor"), f"{hardware.get('cores')} cores"]))


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
    chosen = _HEADINGS if how.columns else {}
    texts = texts.rename(columns={c: chosen.get(c, f"{c} (°)" if c in _DEGREES else c) for c in texts})
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


def render(texts: pd.DataFrame, *, markdown: bool = False) -> str:
    """A table of texts for a terminal, or as Markdown; one without rows is said to have none.

    Words are folded to the terminal's width and numbers never, whatever the width; for a pipe nothing is.
    """
    if texts.empty:
        return f"(no row; columns: {', '.join(map(str, texts)) or 'none'})"
    if markdown:
        rows = [list(texts), [":--" if _is_words(texts[c]) else "--:" for c in texts], *texts.to_numpy()]
        return "\n".join("| " + " | ".join(_cell(x) for x in row) + " |" for row in rows)
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _ANY_WIDTH, no_color=not terminal, highlight=False)
    words = {name: _is_words(texts[name]) for name in texts}
    most = {name: max(map(cell_len, [str(name), *texts[name]])) for name in texts}
    least = {n: max(map(cell_len, [*str(n).split(), *([] if words[n] else texts[n])])) for n in texts}
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in texts:
        side: Any = "left" if words[name] else "right"
        fixed = not words[name] and sum(most.values()) + _GAP * len(most) > console.width
        width = least[name] if fixed else None
        grid.add_column(Text(str(name)), justify=side, overflow="fold", width=width, min_width=least[name])
    for row in texts.to_numpy():
        grid.add_row(*(Text(str(x)) for x in row))
    console.width = max(console.width, sum(least.values()) + _GAP * len(least))
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").splitlines())


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _is_words(column: pd.Series) -> bool:
    """Whether a column is to be read from the left: not of numbers, nor of numbers with an interval."""
    return not column.str.match(r"^([-−+]?[\d.]+(e[-+]?\d+)?( \[.*\])?|–|[−]?∞)$").all()
