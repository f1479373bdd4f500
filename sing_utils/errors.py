"""The exception and the warning that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class SingError(Exception):
    """A mistake the user can mend; the message is one clear sentence."""


class NoNullSpaceError(SingError):
    """The head's rank equals its width: nothing is invisible to the logits."""


class UnreachableWarning(UserWarning):
    """A wanted Image Score that no step along the given direction reaches; those results are NaN."""


def unknown(what: str, name: str, known: Sequence[str], *, where: str) -> SingError:
    """The error for a name that is none of those known, with the nearest one.

    >>> str(unknown("parameter", "degree", ["degrees", "seed"], where="this notebook"))
    "this notebook has no parameter 'degree', expected one of degrees, seed; did you mean 'degrees'?"
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return SingError(
        f"{where} has no {what} {name!r}, expected one of {', '.join(known)}; did you mean {near!r}?"
    )
