"""What a finished run left: its tidy tables and its record, read without any model.

A run keeps them in `_build/runs/<name>/results/`: one Parquet file a table, `run.json` and a citation.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sing_utils.errors import SingError


@dataclass(frozen=True)
class Results:
    """The results of one run; open them with `Results.open`.

    Attributes:
        folder: of the tables, such as `_build/runs/embedded/results`.
    """

    folder: Path

    @classmethod
    def open(cls, root: Path, run: str) -> Results:
        """The results of a run by its name in `_build/runs`, or by its folder.

        Raises:
            SingError: if there is no such run, or it has no table yet.
        """
        runs = root / "_build" / "runs"
        for folder in [*(place / "results" for place in run_places(root, run)), Path(run)]:
            if any(folder.glob("*.parquet")):
                return cls(folder)
        known = sorted(p.parent.name for p in runs.glob("*/results") if any(p.glob("*.parquet")))
        raise SingError(
            f"there are no results of a run {run!r}, expected "
            + (f"one of {', '.join(known)}, or a run's folder" if known else "a run, but there is none yet")
            + ": make one with `sing run --profile PROFILE`."
        )

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.folder.resolve().parent.name

    @cached_property
    def names(self) -> list[str]:
        """Names of the tables, in alphabetical order."""
        return sorted(p.stem for p in self.folder.glob("*.parquet"))

    def get(self, name: str) -> pd.DataFrame | None:
        """A table, or None if this run has none of that name."""
        path = self.folder / f"{name}.parquet"
        return pd.read_parquet(path) if path.exists() else None

    def table(self, name: str) -> pd.DataFrame:
        """A table.

        Raises:
            SingError: if this run has none of that name; the message names the nearest.
        """
        found = self.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.0)[0]
            raise SingError(
                f"the run {self.run} has no table {name!r}, expected one of {', '.join(self.names)}; "
                f"did you mean {near!r}?"
            )
        return found

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json says; empty for a run that was made without it.

        Raises:
            SingError: if the file is damaged.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return {}
        try:
            found: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise SingError(
                f"run.json of the run {self.run} is damaged, expected what `sing run` wrote: delete it and "
                "call `sing run` again."
            ) from None
        return found


def run_places(root: Path, run: str) -> list[Path]:
    """Where a run may lie that is named so: in `_build/runs`, or a folder, from the checkout or from here."""
    return [root / "_build" / "runs" / run, root / run, Path(run).absolute()]


def find_run(root: Path, run: str, holding: str) -> Path | None:
    """The folder of a run, by its name or its folder, that holds a file; None if there is none."""
    return next((place.resolve() for place in run_places(root, run) if (place / holding).exists()), None)


def without_pictures(table: pd.DataFrame) -> pd.DataFrame:
    """A table without its columns of bytes, such as small pictures, which no text can hold."""
    binary = [c for c in table if table[c].dtype == object and table[c].map(type).isin([bytes]).any()]
    return table.drop(columns=binary)
