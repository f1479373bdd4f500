"""Files of one's own on which a classifier depends, and the code among them.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> _ = (folder / "mine.py").write_text("import helper, torch")
>>> _ = (folder / "helper.py").write_text("SIZE = 64")
>>> sorted(file.name for file in code_of(folder / "mine.py")[0].values())
['helper.py', 'mine.py']
>>> before = code_digest(folder / "mine.py")
>>> _ = (folder / "helper.py").write_text("SIZE = 96")
>>> code_digest(folder / "mine.py") == before
False
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from modulefinder import ModuleFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_DEPTH = 3  # folders below that of one's own file in which its weights and settings may lie
_BESIDE = {
    *(".py", ".json", ".yaml", ".yml", ".toml", ".txt", ".csv", ".npy", ".npz", ".onnx"),
    *(".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".h5"),
}
_LIBRARIES = ("site-packages", "dist-packages")
_imported: dict[Path, dict[str, ModuleType]] = {}  # what files of one's own imported, by their folder


def needed_by(path: Path) -> list[Path]:
    """Files on which a model in a Python file may depend: its code, and weights and settings around it."""
    if not path.is_file():
        return []
    beside = [f for f in path.parent.iterdir() if f.is_file()]
    return sorted({*code_of(path)[0].values(), *beside, *_below(path.parent)})


def with_home(text: str) -> str:
    """A path, or an option or a name of a classifier with one, whose ~/ no shell has replaced.

    >>> with_home("--images=~/photos").endswith("~/photos"), with_home("a ~/b")
    (False, 'a ~/b')
    """
    match = re.match(r"(--[\w-]+=)?(\w+:)?(?=~/)", text)
    return match[0] + os.path.expanduser(text[match.end() :]) if match else text


def files_in(path: Path) -> list[Path]:
    """A file, or all files of a folder; none if it is neither."""
    if path.name and path.is_file():
        return [path]
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.name and path.is_dir() else []


def _below(folder: Path) -> Iterator[Path]:
    """Code, weights and settings in a folder and a few levels below it, but not in environments."""
    for place, folders, names in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts)
        skip = (d for d in folders if d.startswith((".", "__")) or (Path(place) / d / "pyvenv.cfg").exists())
        leave = {*skip, *_LIBRARIES, "node_modules", "_build"} if deep < _DEPTH else set(folders)
        folders[:] = sorted(d for d in folders if d not in leave)
        yield from (Path(place) / n for n in sorted(names) if Path(n).suffix.lower() in _BESIDE)


# --------------------------------------------------------------------------------------- code


def code_of(path: Path) -> tuple[dict[str, Path], set[str]]:
    """Module -> file, of a Python file and all that it imports from its project; and libraries' names.

    Nothing is run. Also what an imported module imports, in functions too. If something is imported by a
    name that is only known when it runs, all code below the file's folder.
    """
    own = [p for p in sys.path if p and not _is_library(Path(p).resolve())]
    finder = ModuleFinder([str(path.resolve().parent), *own], excludes=["sing_utils"])
    with suppress(Exception):  # a file that is no Python is answered when it is loaded
        finder.run_script(str(path))
    modules: dict[str, Any] = dict(finder.modules)
    found = {name: Path(m.__file__) for name, m in modules.items() if m.__file__} | {"__main__": path}
    text = "".join(f.read_text(encoding="utf-8", errors="replace") for f in found.values())
    if "import_module(" in text or "__import__(" in text:
        found |= {str(f.relative_to(path.parent)): f for f in _below(path.parent) if f.suffix == ".py"}
    return found, {name.partition(".")[0] for name in finder.any_missing()}


def code_digest(path: Path) -> str:
    """SHA-256 over `code_of` a file, and the versions of the libraries that it imports; 16 digits."""
    digest = hashlib.sha256()
    code, libraries = code_of(path)
    for name, file in sorted(code.items()):
        digest.update(f"{name}\n".encode() + file.read_bytes())
    for name in sorted(libraries):
        with suppress(PackageNotFoundError):  # of Python itself, or called otherwise
            digest.update(f"{name} {version(name)}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def at_home(folder: Path) -> Iterator[None]:
    """In the folder of one's own file, from which it may import and read."""
    for name, module in _imported.pop(folder, {}).items():  # its files may have changed
        if sys.modules.get(name) is module:
            del sys.modules[name]
    with chdir(folder), _own_modules(folder):
        yield


@contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """A module of another file of one's own is not mistaken for one of the same name in this folder."""
    own = _imported.setdefault(folder, {})
    names = {name for place, held in _imported.items() if place != folder for name in held}
    others = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    sys.modules.update(own)
    before = sys.modules.copy()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if len(sys.modules) > len(before):
            new = {name: m for name, m in sys.modules.items() if name not in before and _is_own(name, m)}
            own.update(new)
        for name, module in others.items():
            sys.modules.setdefault(name, module)


@dataclass(frozen=True)
class AtHome:
    """A function of one's own file, which may import from its folder whenever it is called."""

    folder: Path
    call: Callable[..., Any]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What it returns."""
        with _own_modules(self.folder):
            return self.call(*args, **options)

    def __repr__(self) -> str:
        return repr(self.call)


def _is_own(name: str, module: ModuleType) -> bool:
    """Whether a module is neither a library's nor ours."""
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return place is not None and not name.startswith("sing_") and not _is_library(Path(place).resolve())


def _is_library(place: Path) -> bool:
    if set(_LIBRARIES) & set(place.parts):
        return True
    return any(place.is_relative_to(Path(sysconfig.get_path(p)).resolve()) for p in ("stdlib", "platstdlib"))
