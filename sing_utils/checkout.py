"""Where the book's checkout is, and the data that come with the package."""

from __future__ import annotations

from pathlib import Path

from sing_utils.errors import SingError

OURS = Path(__file__).resolve().parents[1]  # the checkout that this package is in
_IN_CHECKOUT = OURS / "data"
# An installed package has the models and lists; features, notebooks and pages are in a checkout only.
DATA = _IN_CHECKOUT if (_IN_CHECKOUT / "profiles").is_dir() else Path(__file__).parent / "data"


def package_files(root: Path) -> dict[str, Path]:
    """The package's files in a checkout, by their place in it, such as "sing_utils/method/head.py"."""
    files = sorted(p for p in (root / "sing_utils").rglob("*") if p.is_file() and p.suffix != ".pyc")
    return {p.relative_to(root).as_posix(): p for p in files}


def project_root(start: Path | None = None, *, or_ours: bool = False) -> Path:
    """The nearest folder at or above `start` that holds data/profiles.

    Args:
        start: None: the working folder.
        or_ours: where that is in no checkout, take the package's: a notebook may run anywhere.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, *((OURS,) if or_ours else ())):
        if (folder / "data" / "profiles").is_dir():
            return folder
    raise SingError(
        f"no data/profiles at or above {start.name}/, expected to be called inside a checkout of the book."
    )
