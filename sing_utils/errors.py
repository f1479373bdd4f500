"""The exception and the warning that users are meant to read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence


class SingError(ValueError):
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
    listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return SingError(f"{where} has no {what} {name!r}, expected one of {listed}; did you mean {near!r}?")


def misnamed(what: str, name: str, known: Collection[str], others: str = "") -> SingError:
    """The error for something unknown by its name alone, with the nearest that is known.

    >>> str(misnamed("engine", "locale", ["local", "ray"]))
    "unknown engine 'locale', expected one of local, ray; did you mean 'local'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0) or sorted(known)
    few = f"one of {', '.join(sorted(known))}{others}" if len(known) < 20 else "a known one"
    return SingError(f"unknown {what} {name!r}, expected {few}; did you mean {near[0]!r}?")


def reason(error: BaseException, *, most: int = 120) -> str:
    r"""What a library says, to stand in a sentence: its kind, one line, no colours for a terminal.

    >>> reason(KeyError("a"))
    "KeyError: 'a'"
    >>> reason(OSError("do \x1b[1mthis\x1b[0m\nnow, please, go"), most=12)
    'OSError: do this now,…'
    """
    text = " ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error)).split())
    if len(text) > most:
        text = text[: most + 1].rpartition(" ")[0] or text[:most]
        text += "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
