"""The controls' tables as a page shows them: fewer columns, intervals in brackets, units in the heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from sing_utils.evidence import SOFTMAX
from sing_utils.show.findings import number, tiny

_WITNESS = [
    "R², null part alone",
    "null part, share of the rest",
    "beyond the logits, share of the rest",
    "median |AS| (°)",
    "blind: median |AS| (°)",
    "median IS (°)",
    "blind: median IS (°)",
    "mean contrast (°)",
    "blind: mean contrast (°)",
]
_TIED = "\u00a0"  # a space at which a line does not break
signed = partial(number, sign=True)


def page(table: pd.DataFrame, digits: int = 2, **more: int) -> Styler:
    """A table for a page: no row numbers, true minus signs, cells that wrap where the page is narrow.

    Args:
        digits: of all numbers with a fraction.
        more: column -> digits of its own.
    """
    places = dict.fromkeys(table.select_dtypes("floating"), digits) | more
    numbers = {c: partial(cell, digits=d) for c, d in places.items()}
    style = table.style.hide(axis="index").set_table_attributes('class="sing-wrap"')
    return style.format(numbers, na_rep="–")


def cell(x: float, digits: int = 2) -> str:
    """A number of a table; one that would read as zero, and is none, as a power of ten.

    >>> cell(-0.126), cell(3.46e-9), cell(0.001)
    ('−0.13', '3.5e−9', '0.00')
    """
    return tiny(x) if 0 < abs(x) < min(1e-4, 10.0**-digits / 2) else number(x, digits)


def encoders(table: pd.DataFrame) -> pd.DataFrame:
    """Of `encoder_control`: one row a classifier and encoder."""
    shown = table[["classifier", "encoder"]].copy()
    for column in ("R²", "median |AS| (°)", "median IS (°)"):
        shown[column] = table[column].map(number)
    shown["contrast (°)"] = table["mean contrast (°)"].map(signed)
    return shown.assign(order=table["rank correlation of classes"].map(number))


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Of `classifier_differences`: one row a pair and statistic."""
    parts = []
    for statistic, own in table.groupby("statistic", sort=False):
        words = partial(signed, digits=3) if str(statistic).startswith("contrast, beyond") else signed
        part = own[["statistic"]].assign(
            **{
                "first − second": own["first"] + " − " + own["second"],
                "difference (by photo)": _bracket(own, "difference", "low", "high", words),
            }
        )
        if "low by class" in own:
            part["(by class)"] = _bracket(own, None, "low by class", "high by class", words)
        parts.append(part)
    return pd.concat(parts)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Of `sing_utils.measure.tables.rank_correlations`: one row a pair of classifiers."""
    shown = table[["a", "b"]].assign(**{"ρ of |AS|": _bracket(table, "rho", "low", "high")})
    shown["not enlarged"] = table["not enlarged"].map(signed)
    return shown


def groups(table: pd.DataFrame) -> pd.DataFrame:
    """Of `sing_utils.measure.tables.enlarged_or_not`: one row a classifier and group of classes."""
    shown = table[["classifier", "classes"]].copy()
    for column, ends, words in (
        ("median |AS| (°)", "median |AS| (°) ", number),
        ("mean contrast (°)", "contrast ", signed),
        ("mean contrast, beyond (°)", "mean contrast, beyond (°) ", partial(signed, digits=3)),
    ):
        shown[column] = _bracket(table, column, f"{ends}low", f"{ends}high", words)
    return shown


def translators(table: pd.DataFrame) -> pd.DataFrame:
    """Of `translator_control`: what a reader needs, a row a number, a column a classifier."""
    wide = table.set_index("classifier")[_WITNESS].T.map(number)
    return wide.rename_axis(index="measure", columns=None).reset_index()


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Of `rank_control`: this book's rule, what softmax ignores, and the rules that cut elsewhere."""
    book = table.groupby("classifier")["rank"].transform("first")
    first = ~table["classifier"].duplicated()
    table = table[first | (table["rank"] != book) | (table["rule"] == SOFTMAX)]
    formats = {
        "rank": str,
        "energy (%)": partial(number, digits=1),
        "median |AS| (°)": number,
        "mean contrast (°)": signed,
        "median IS (°)": partial(number, digits=1),
        "logits moved": tiny,
    }
    shown = table[["classifier", "rule"]].assign(**{c: table[c].map(f) for c, f in formats.items()})
    return shown.rename(columns=lambda c: c.removeprefix("median ").removeprefix("mean "))


def steered_wordings(table: pd.DataFrame) -> pd.DataFrame:
    """Of `sing_utils.measure.steering.steered_wordings`: a row a wording, mean AS (degrees) a classifier."""
    wide = table.pivot(index="prompt", columns="classifier", values="AS").loc[table["prompt"].unique()]
    return wide.map(lambda x: signed(x, 1)).rename_axis(columns=None).reset_index()


def _bracket(
    table: pd.DataFrame, value: str | None, low: str, high: str, words: Callable[..., str] = signed
) -> Any:
    """Numbers as "value (low to high)", or "low to high"; an empty text where there are none."""

    def one(row: pd.Series) -> str:
        if not np.isfinite(row[low]):
            return ""
        span = f"{words(row[low])}{_TIED}to{_TIED}{words(row[high])}"
        return span if value is None else f"{words(row[value])} ({span})"

    return table.apply(one, axis=1)
