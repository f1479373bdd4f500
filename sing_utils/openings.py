"""What each notebook says at its top: two sentences made from its numbers, the first of which stands alone.

The introduction quotes the first sentences, so a fact is phrased here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from sing_utils.findings import Finding


def between(values: Iterable[float], number: str = ".1f") -> str:
    """From the least to the largest, as one number where they read the same.

    >>> between([7.84, 10.7]), between([3.01, 3.02]), between([-0.001, 0.12], ".2f")
    ('7.8 to 10.7', '3.0', '0.00 to 0.12')
    """
    ends = [f"{x:{number}}" for x in (min(values := list(values)), max(values))]
    low, high = (e.lstrip("-") if not float(e) else e.replace("-", "−") for e in ends)
    return low if low == high else f"{low} to {high}"


def setup(heads: pd.DataFrame) -> Finding:
    """What the logits cannot see of a feature: from the table `heads`."""
    ignored, chance = heads["ignored (%)"], heads["by chance (%)"]
    than = "less than" if (ignored < chance).all() else "more than" if (ignored > chance).all() else "beside"
    flips = int(heads["top-1 changes"].sum())
    stays = "no top class changes" if not flips else f"{flips} top classes change"
    return Finding(
        f"The heads of these classifiers ignore {between(ignored, '.0f')} % of a feature's energy, {than} the "
        f"{between(chance, '.0f')} % in a random subspace of that size. Without it the logits move by at most "
        f"{heads['logits moved'].max():.0e} of what they could, which is rounding, and {stays}."
    )
