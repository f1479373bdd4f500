"""The controls' tables as a page shows them: fewer columns, intervals in brackets, units in the heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler


def spreads(table: pd.DataFrame) -> pd.DataFrame:
    """Of `sing_utils.tables.spreads`: scores of each classifier, the contrast with its interval."""
    ci = _bracket(table, "mean contrast (°)", "contrast low", "contrast high", "+.2f")
    columns = ["median |AS| (°)", "mean AS (°)", "sd AS (°)", "median IS (°)", "sd IS (°)"]
    numbers = table[columns].map(lambda x: f"{x:.2f}")
    return pd.concat([table[["classifier", "photos"]], numbers, ci.rename("mean contrast (°)")], axis=1)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Of `classifier_differences`: one row a pair and statistic."""
    shown = table[["statistic"]].assign(
        **{
            "first − second": table["first"] + " − " + table["second"],
            "difference": table["difference"].map("{:+.2f}".format),
            "by photo": _bracket(table, None, "low", "high", "+.2f"),
        }
    )
    if "low by class" in table:
        shown["by class"] = _bracket(table, None, "low by class", "high by class", "+.2f")
    return shown.sort_values("statistic", kind="stable")


def translators(table: pd.DataFrame) -> Styler:
    """Of `translator_control`: a column a classifier."""
    wide = table.set_index("classifier").T
    counts = [x for x in ("photos to fit", "shuffles") if x in wide.index]
    return wide.style.format(precision=2).format("{:.0f}", subset=(counts, slice(None)))


def prompts(table: pd.DataFrame) -> pd.DataFrame:
    """Of `prompt_control`: each score with its least and largest value over wordings."""
    shown = table[["classifier"]].copy()
    for what in ("median |AS| (°)", "mean AS (°)", "mean contrast (°)"):
        shown[what] = _bracket(table, what, f"{what}, least", f"{what}, most", "+.2f")
    if "p of the names" in table:
        what = "mean AS, other names (°)"
        shown[what] = _bracket(table, what, "other names, low", "other names, high", "+.2f")
        shown["p of the names"] = table["p of the names"].map("{:.3f}".format)
    return shown


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Of `rank_control`: one row a classifier and rule."""
    formats = {
        "gap": lambda x: "∞" if np.isinf(x) else f"{x:.3g}",
        "energy (%)": "{:.1f}".format,
        "median |AS| (°)": "{:.2f}".format,
        "mean contrast (°)": "{:+.2f}".format,
        "median IS (°)": "{:.1f}".format,
        "logits moved": "{:.0e}".format,
    }
    shown = table.drop(columns="mean AS (°)")
    return shown.assign(**{column: table[column].map(f) for column, f in formats.items()})


def steered_wordings(table: pd.DataFrame) -> pd.DataFrame:
    """Of `sing_utils.tables_steering.steered_wordings`: a row a wording, mean AS (degrees) a classifier."""
    wide = table.pivot(index="prompt", columns="classifier", values="AS").loc[table["prompt"].unique()]
    return wide.map("{:+.1f}".format).rename_axis(columns=None).reset_index()


def _bracket(table: pd.DataFrame, value: str | None, low: str, high: str, number: str) -> Any:
    """Numbers as "value (low to high)", or "low to high"; an empty text where there are none."""

    def one(row: pd.Series) -> str:
        if not np.isfinite(row[low]):
            return ""
        span = f"{row[low]:{number}} to {row[high]:{number}}"
        return span if value is None else f"{row[value]:{number}} ({span})"

    return table.apply(one, axis=1)
