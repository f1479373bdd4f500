"""Is this laptop ready for the workshop? One code word says so, the same wherever versions are the same."""

from __future__ import annotations

import hashlib
import importlib
import sys
from importlib import metadata
from pathlib import Path

from sing_utils.errors import SingError
from sing_utils.workshop.notebooks import BUNDLE

PACKAGES = ("torch", "numpy", "pandas", "altair", "safetensors", "jupyterlab", "sing-utils")
_FIRST = "amber birch coral delta ember fjord green hazel ivory jade kelp lunar mossy north olive pearl"
_SECOND = "otter finch heron lynx robin trout badger beaver falcon gecko ibis koala magpie newt puffin stork"


def versions() -> dict[str, str]:
    """What is installed here of what the workshop uses.

    Raises:
        SingError: for a package that is missing or can't be imported.
    """
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        module = name.replace("-", "_")
        try:
            importlib.import_module(module)
            found[name] = metadata.version(name).partition("+")[0]  # 2.15.0+cpu is 2.15.0
        except (ImportError, metadata.PackageNotFoundError) as error:
            raise SingError(
                f"{name} can't be imported here ({error}), expected it for the workshop: run the command in "
                "START_HERE.txt again, or pip install 'sing-utils[live]'."
            ) from None
    return found


def code_word(found: dict[str, str]) -> str:
    """Two words that depend on the versions.

    >>> code_word({"torch": "2.15.0"}) == code_word({"torch": "2.15.0"}) != code_word({"torch": "2.14.0"})
    True
    """
    digest = hashlib.sha256(repr(sorted(found.items())).encode()).digest()
    first, second = _FIRST.split(), _SECOND.split()
    return f"{first[digest[0] % len(first)]}-{second[digest[1] % len(second)]}-{digest[2] % 100:02d}"


def require_bundle(folder: Path) -> str:
    """What one line says of the bundle in a folder; its first tensor is split as in session 1.

    Raises:
        SingError: if there is none, or if it can't be read.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / BUNDLE
    if not path.is_file() or len(list(folder.glob("[1-6]_*.ipynb"))) < 6:
        raise SingError(
            f"{folder} holds no {BUNDLE} with six notebooks beside it, expected the workshop's folder: "
            "go there, or name it: sing workshop check FOLDER."
        )
    try:
        with safe_open(path, "pt") as file:
            W = file.get_tensor("W").double()
    except (SafetensorError, OSError) as error:
        raise SingError(f"{path} can't be read ({error}), expected a whole copy: copy it again.") from None
    sigma = torch.linalg.svdvals(W)
    return f"{BUNDLE}: a head {tuple(W.shape)}, largest singular value {sigma[0]:.2f}"
