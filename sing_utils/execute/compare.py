"""What differs between two runs, and by how much.

>>> import tempfile
>>> from pathlib import Path
>>> a, b = Results(Path(tempfile.mkdtemp())), Results(Path(tempfile.mkdtemp()))
>>> pd.DataFrame({"classifier": ["x", "y"], "IS": [5.0, 6.0]}).to_parquet(a.folder / "scores.parquet")
>>> pd.DataFrame({"classifier": ["y", "x"], "IS": [6.5, 5.0]}).to_parquet(b.folder / "scores.parquet")
>>> found = compare(a, b)
>>> found.equal
False
>>> found.columns[["table", "column", "rows", "differ", "largest", "where"]].to_dict("records")
[{'table': 'scores', 'column': 'IS', 'rows': 2, 'differ': 1, 'largest': 0.5, 'where': 'classifier y'}]
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sing_utils.errors import SingError
from sing_utils.runs.results import Results

#: Columns that are measured anew each time, also where nothing differs.
TIMINGS = frozenset({"seconds", "hours"})
VALUES = ["key", "a", "b"]
TABLES = ["table", "rows_a", "rows_b", "rows", "matched_by", "note"]
COLUMNS = ["table", "column", "rows", "differ", "largest", "median", "where", "relative", "outside"]
ROWS = ["table", "run", "row"]


@dataclass(frozen=True)
class Comparison:
    """Two runs A and B side by side; every table is tidy and empty where nothing differs.

    Attributes:
        recorded: whether both runs have a run.json; without it the first three tables say nothing.
        parameters: key, a, b; JSON values.
        versions: key (Python or a library), a, b.
        revisions: key (such as classifiers.x.weights), a, b.
        tables: one row a table that both have: its rows in A, in B and in both, the columns that rows
            were matched by, and a note on what could not be compared.
        columns: one row a column that differs, what matters most first: table, column, rows (compared),
            differ (how many), largest and median absolute difference among those (NaN where it is
            text), where (the row of the largest), relative (the largest, by the column's largest
            value; for text the share of rows that differ), outside (rows in which a value lies outside
            the other run's interval; NaN where the table has none for it).
        rows: table, run ("A" or "B"), row: rows that only one run has.
        only_a, only_b: tables that only one run has.
        skipped: columns that were not compared, as TABLE.COLUMN.
    """

    recorded: bool
    parameters: pd.DataFrame
    versions: pd.DataFrame
    revisions: pd.DataFrame
    tables: pd.DataFrame
    columns: pd.DataFrame
    rows: pd.DataFrame
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs, within the tolerance; dates, commits and machines do not count."""
        records = (self.parameters, self.versions, self.revisions, self.columns, self.rows)
        return (
            all(x.empty for x in records)
            and not (self.only_a or self.only_b)
            and not (self.tables["note"] != "").any()
        )


def compare(a: Results, b: Results, *, tolerance: float = 0.0) -> Comparison:
    """Compare two runs: what went in, by their records, and every table that both have.

    Args:
        a, b: results of two runs.
        tolerance: absolute difference of two numbers that still counts as equal, in their own unit.

    Raises:
        SingError: if the tolerance is no number of at least 0, or a table can't be read.
    """
    if not tolerance >= 0 or math.isinf(tolerance):
        raise SingError(f"the tolerance is {tolerance}, expected 0 (exactly equal) or more, such as 1e-6.")
    compared = [
        _compare_tables(name, _read(a, name), _read(b, name), tolerance)
        for name in a.names
        if name in b.names
    ]
    columns = _frame([row for c in compared for row in c.columns], COLUMNS)
    columns["outside"] = columns["outside"].astype(float)
    order = columns.assign(out=columns["outside"].fillna(0) / columns["rows"], size=columns["relative"])
    order = order.sort_values(["out", "size"], ascending=False, kind="stable").index
    return Comparison(
        recorded=bool(a.record and b.record),
        parameters=_differences(a, b, "parameters"),
        versions=_differences(a, b, "versions"),
        revisions=_differences(a, b, "revisions", nested=True),
        tables=_frame([c.table for c in compared], TABLES),
        columns=columns.loc[order].reset_index(drop=True),
        rows=_frame([row for c in compared for row in c.rows], ROWS),
        only_a=tuple(name for name in a.names if name not in b.names),
        only_b=tuple(name for name in b.names if name not in a.names),
        skipped=tuple(s for c in compared for s in c.skipped),
    )


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns)


def _read(results: Results, name: str) -> pd.DataFrame:
    try:
        return results.table(name)
    except SingError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise SingError(
            f"the table {name} of the run {results.run} can't be read ({str(error)[:80]}), expected the "
            "Parquet file that `sing run` wrote: run its notebook again with --force."
        ) from None


# ------------------------------------------------------------------------------------- records


def _differences(a: Results, b: Results, part: str, *, nested: bool = False) -> pd.DataFrame:
    """Keys of a part of run.json whose values differ; a missing one is null."""
    if not (a.record and b.record):
        return _frame([], VALUES)
    depth = 9 if nested else 1
    rows = _unlike(a.record.get(part) or {}, b.record.get(part) or {}, depth)
    return pd.DataFrame(rows, columns=VALUES, dtype=object)  # null stays None


def _unlike(x: Any, y: Any, depth: int, key: str = "") -> list[tuple[str, Any, Any]]:
    """Where two values differ, keys of mappings joined by dots down to `depth`.

    >>> _unlike({"x": {"y": 1, "z": 2}, "w": 0}, {"x": {"y": 1, "z": 3}}, 2)
    [('x.z', 2, 3), ('w', 0, None)]
    """
    if depth and isinstance(x, dict) and isinstance(y, dict):
        keys = dict.fromkeys([*x, *y])
        parts = [_unlike(x.get(k), y.get(k), depth - 1, f"{key}.{k}" if key else k) for k in keys]
        return [row for part in parts for row in part]
    return [] if x == y else [(key, x, y)]


def value_text(value: Any, other: Any = None) -> str:
    """A value of a record for people; of lists and mappings only what the other run has not.

    >>> value_text(["a", "b", "c"], ["a", "c", "d"]), value_text({"x": 1, "y": 2}, {"y": 2})
    ('with b', 'with x: 1')
    >>> value_text(None), value_text(0.5), value_text("ab" * 32)
    ('none', '0.5', 'abababababab…')
    """
    if value is None:
        return "none"
    if isinstance(value, dict) and isinstance(other, dict | None):
        flat = [{k: v for k, v in (x or {}).items() if not isinstance(v, dict)} for x in (value, other)]
        items, others = ([f"{k}: {value_text(v)}" for k, v in x.items()] for x in flat)
        return value_text(items, others)
    if isinstance(value, list) and isinstance(other, list):
        own = [str(x) for x in value if x not in other]
        return f"with {', '.join(own)}" if own else "without them" if len(value) < len(other) else "otherwise"
    if isinstance(value, str):
        return f"{value[:12]}…" if re.fullmatch("[0-9a-f]{40,64}", value) else value
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Compared:
    """What `_compare_tables` found, as rows of the tables of `Comparison`."""

    table: dict[str, Any]
    columns: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    skipped: list[str]


def _compare_tables(name: str, a: pd.DataFrame, b: pd.DataFrame, tolerance: float) -> _Compared:
    skipped = [f"{name}.{c}" for c in a if c in TIMINGS and c in b]
    a, b = (x.drop(columns=[c for c in x if c in TIMINGS]) for x in (a, b))
    table: dict[str, Any] = {"table": name, "rows_a": len(a), "rows_b": len(b)}
    both = (("A", a, b), ("B", b, a))
    notes = [f"only {run} has the column {c}" for run, x, y in both for c in x if c not in y]
    keys, rows = _keys(a, b), []
    if keys:
        ids = _ids(a, keys), _ids(b, keys)
        for run, x, own, others in (("A", a, *ids), ("B", b, *reversed(ids))):
            alone = x[~own.isin(others).to_numpy()]
            rows += [{"table": name, "run": run, "row": text} for text in _row_texts(alone, keys)]
        a, b = _partnered(a, b, *ids)
    elif len(a) != len(b):
        notes.append(f"no columns tell the rows apart, and there are {len(a)} and {len(b)}: not compared")
        a, b = a.iloc[:0], b.iloc[:0]
    matched = ", ".join(keys) or "position, since no columns tell the rows apart"
    table |= {"rows": len(a), "matched_by": matched, "note": "; ".join(notes)}
    compared = [str(c) for c in a if c in b and c not in keys]
    shown = _fewest(a, keys)
    found = [_compare_column(name, c, a, b, shown, tolerance) for c in compared]
    return _Compared(table, [row for row in found if row is not None], rows, skipped)


def _partnered(
    a: pd.DataFrame, b: pd.DataFrame, ids_a: pd.Series, ids_b: pd.Series
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that both tables have, in the order of A."""
    place = pd.Series(np.arange(len(b)), index=ids_b)
    common = ids_a.isin(ids_b).to_numpy()
    order = place[ids_a[common]].to_numpy()
    return a[common].reset_index(drop=True), b.iloc[order].reset_index(drop=True)


def _keys(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """The columns that name the rows of both tables, empty if none do.

    Words alone or with whole numbers, whichever leaves fewer rows without a partner. Numbers with
    fractions only where all rows find one, as with a grid of Image Scores: a measured number names nothing.
    """
    common = [c for c in a if c in b]
    words = [c for c in common if _is_words(a[c]) and _is_words(b[c])]
    whole = [c for c in common if _is_whole(a[c]) and _is_whole(b[c])]
    numbers = [c for c in common if pd.api.types.is_numeric_dtype(a[c]) and c not in whole]
    found = [
        _first_unique(a, b, words, []),
        _first_unique(a, b, [c for c in common if c in words + whole], whole),
    ]
    named = [keys for keys in found if keys]
    if named:
        return max(named, key=lambda keys: _partners(a, b, keys))
    keys = _first_unique(a, b, [c for c in common if c in words + whole + numbers], whole + numbers)
    return keys if keys and _partners(a, b, keys) == min(len(a), len(b)) else []


def _first_unique(a: pd.DataFrame, b: pd.DataFrame, columns: list[str], spare: list[str]) -> list[str]:
    """The first columns that tell all rows apart (what a row is stands left), without `spare` ones."""
    for i in range(1, len(columns) + 1):
        keys = columns[:i]
        if _unique(a, keys) and _unique(b, keys):
            for column in [c for c in reversed(keys) if c in spare]:
                fewer = [k for k in keys if k != column]
                if fewer and _unique(a, fewer) and _unique(b, fewer):
                    keys = fewer
            return keys
    return []


def _fewest(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Of the columns that name the rows, those that suffice for a reader."""
    for column in list(keys):
        fewer = [k for k in keys if k != column]
        if fewer and _unique(table, fewer):
            keys = fewer
    return keys


def _partners(a: pd.DataFrame, b: pd.DataFrame, keys: list[str]) -> int:
    """How many rows of A have one in B."""
    return int(_ids(a, keys).isin(_ids(b, keys)).sum())


def _is_words(column: pd.Series) -> bool:
    kinds = set(column.dropna().map(type))
    return kinds <= {str} and not pd.api.types.is_numeric_dtype(column)


def _is_whole(column: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(column) or pd.api.types.is_bool_dtype(column)


def _unique(table: pd.DataFrame, keys: list[str]) -> bool:
    return not table.duplicated(keys).any()


def _ids(table: pd.DataFrame, keys: list[str]) -> pd.Series:
    """What names each row, as one text."""
    columns = [table[key].astype(object).map(str) for key in keys]  # str itself, so that nothing is missing
    return pd.Series(["\0".join(row) for row in zip(*columns, strict=True)], index=table.index, dtype=object)


def _row_texts(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Each row's name.

    >>> _row_texts(pd.DataFrame({"classifier": ["x"], "IS": [5.0]}), ["classifier", "IS"])
    ['classifier x, IS 5.0']
    """
    columns = [[f"{k} {x}" for x in table[k]] for k in keys]
    return [", ".join(cells) for cells in zip(*columns, strict=True)]


def _compare_column(
    name: str, column: str, a: pd.DataFrame, b: pd.DataFrame, keys: list[str], tolerance: float
) -> dict[str, Any] | None:
    """How two columns of the same rows differ; None if they do not."""
    x, y = a[column], b[column]
    numbers = all(pd.api.types.is_numeric_dtype(c) for c in (x, y))
    if numbers:
        u, v = x.to_numpy(np.float64, na_value=np.nan), y.to_numpy(np.float64, na_value=np.nan)
        with np.errstate(invalid="ignore"):
            gap = np.where((u == v) | (np.isnan(u) & np.isnan(v)), 0.0, np.abs(u - v))
        unlike = ~(gap <= tolerance)  # a number against none is unlike, whatever the tolerance
    else:
        unlike = np.array([not _same(p, q) for p, q in zip(x, y, strict=True)], dtype=bool)
        gap = np.full(len(unlike), np.nan)
    if not unlike.any():
        return None
    row = int(np.argmax(np.where(unlike, np.nan_to_num(gap, nan=np.inf), -1.0)))
    sizes = gap[unlike & np.isfinite(gap)]
    largest = float(sizes.max()) if len(sizes) else math.nan
    scale = float(np.nanmax(np.abs(np.concatenate([u, v])))) if numbers else math.nan
    return {
        "table": name,
        "column": column,
        "rows": len(unlike),
        "differ": int(unlike.sum()),
        "largest": largest,
        "median": float(np.median(sizes)) if len(sizes) else math.nan,
        "where": _row_texts(a.iloc[[row]], keys)[0] if keys else f"row {row + 1}",
        "relative": (largest / scale if scale else math.nan) if numbers else unlike.mean(),
        "outside": _outside(column, a, b, tolerance),
    }


def _same(p: Any, q: Any) -> bool:
    try:
        return bool(p == q) or (pd.isna(p) and pd.isna(q))
    except ValueError:  # arrays in cells
        return str(p) == str(q)


def _outside(column: str, a: pd.DataFrame, b: pd.DataFrame, tolerance: float) -> float:
    """In how many rows a value lies outside the other run's interval; NaN without one."""
    bounds = _interval(column, a)
    if bounds is None or _interval(column, b) != bounds:
        return math.nan
    outside = np.zeros(len(a), dtype=bool)
    for x, y in ((a, b), (b, a)):
        low, high = (y[c].to_numpy(np.float64, na_value=np.nan) for c in bounds)
        value = x[column].to_numpy(np.float64, na_value=np.nan)
        outside |= (value < low - tolerance) | (value > high + tolerance)
    return float(outside.sum())


def _interval(column: str, table: pd.DataFrame) -> tuple[str, str] | None:
    """The columns with a value's interval: the next pair of low and high to its right.

    >>> _interval("rho", pd.DataFrame([[1.0, 2.0, 3.0]], columns=["rho", "low", "high"]))
    ('low', 'high')
    """
    names = [str(c) for c in table]
    for low in names[names.index(column) + 1 : names.index(column) + 2]:
        high = re.sub(r"\blow\b", "high", low)
        if high != low and high in names:
            return low, high
    return None
