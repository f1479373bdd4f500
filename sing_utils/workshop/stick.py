"""What teachers take along: participants' copies, and a stick from which a laptop installs them offline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sing_utils.errors import SingError
from sing_utils.files import written
from sing_utils.workshop import notebooks

#: What PyTorch's stock build for Linux brings, and its CPU build does not.
_CUDA = re.compile(r"^(torch|torchvision|triton|nvidia-.*|cuda-.*)$")
_START = """\
What does a classifier ignore? A workshop of three hours.

1. You need Python {python}, or a later one that begins with the same two numbers, on {system}.
   Open a terminal in this folder and type

       python3 install.py

   It needs no network, {size:.1f} GB on your disk and some minutes. It makes the folder sing-workshop in
   your home and touches nothing else; to undo it, delete that folder.

2. It ends with a code word. Send it to your teacher: it says that your laptop is ready.

3. On the day: type the command that it printed last. JupyterLab opens in your browser;
   begin with 1_head.ipynb.

No luck? Open book/index.html in a browser and read along. It needs nothing installed.
"""


def prepare(root: Path, folder: Path, *, solved: bool = False) -> list[Path]:
    """Write the six notebooks, without their solutions, and the bundle beside them into an empty folder.

    Args:
        root: the checkout.
        folder: made if needed.
        solved: with their solutions, and the lecture.

    Raises:
        SingError: if the folder holds anything: somebody may have worked there.
    """
    _require_empty(folder)
    made = notebooks.made_bundle(root)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for source in notebooks.sources(root, lecture=solved):
        change = notebooks.without_markers if solved else notebooks.stripped
        text = json.dumps(change(notebooks.read(source)), ensure_ascii=False, indent=1) + "\n"
        with written(folder / source.name) as file:
            file.write(text.encode())
        paths.append(folder / source.name)
    shutil.copyfile(made, folder / notebooks.BUNDLE)
    return paths


def pack(root: Path, folder: Path, *, torch_index: str | None = None) -> float:
    """Fill an empty folder with all that a laptop with this system and Python needs; returns its GB.

    Args:
        root: the checkout, with a built book.
        folder: of the stick; made if needed.
        torch_index: where PyTorch's CPU builds are, on Linux; None: the lock's, which brings CUDA.

    Raises:
        SingError: if there is no book, the folder is not empty, or packages can't be had.
    """
    html = root / "_build/html"
    if not (html / "index.html").is_file():
        raise SingError("there is no built book, expected one in _build/html: run `make book` first.")
    _require_empty(folder)
    prepare(root, folder / "workshop")
    _download(root, folder / "wheels", torch_index)
    shutil.copytree(html, folder / "book")
    for path in tracked(root):
        to = folder / "checkout" / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    shutil.copyfile(Path(__file__).with_name("install.py"), folder / "install.py")
    python = _least_python(folder / "wheels")
    (folder / "wheels/PYTHON").write_text(f"{python} {sys.platform}\n", encoding="utf-8")
    unpacked = 2.1 * sum(p.stat().st_size for p in (folder / "wheels").glob("*.whl")) / 1e9
    start = _START.format(python=python, system=sys.platform, size=unpacked)
    (folder / "START_HERE.txt").write_text(start, encoding="utf-8")
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9


def needed(lock: str, package: str = "sing-utils", extra: str = "live") -> dict[str, str]:
    """Name -> lines in a lock file, of all packages that one needs on this system, itself left out.

    Raises:
        SingError: if one of them is not installed here: what it needs itself can't be known then.
    """
    lines = {}
    for block in re.split(r"\n(?=[a-z0-9])", lock.strip()):
        pinned = Requirement(block.partition("\\")[0])  # before its hashes
        if pinned.marker is None or pinned.marker.evaluate():
            lines[str(canonicalize_name(pinned.name))] = block
    found: dict[str, str] = {}
    todo, seen = [(package, extra)], set()
    while todo:
        name, extra = todo.pop()
        seen.add((name, extra))
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            raise SingError(
                f"{name} is not installed here, expected it to be packed: pip install -e '.[live]'."
            ) from None
        for one in requirements:
            new = str(canonicalize_name(one.name))
            wanted = one.marker is None or any(one.marker.evaluate({"extra": x}) for x in ("", extra))
            if wanted and new in lines:  # what the lock leaves out is not installed either
                found[new] = lines[new]
                todo += [(new, x) for x in (one.extras or {""}) if (new, x) not in seen]
    return dict(sorted(found.items()))


def tracked(root: Path) -> list[Path]:
    """The files of the checkout that git knows, or, where it is no repository, all but what was built."""
    try:
        asked = ["git", "-C", str(root), "ls-files", "-z"]
        listed = subprocess.run(asked, capture_output=True, check=True, text=True).stdout
        return [root / name for name in listed.split("\0") if name and (root / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        built = {".venv", "_build", "__pycache__", "node_modules"}
        return [p for p in root.rglob("*") if p.is_file() and not built & set(p.relative_to(root).parts)]


def _download(root: Path, folder: Path, torch_index: str | None) -> None:
    """Wheels of the lock for this system and this Python, and one of `sing_utils` itself."""
    folder.mkdir(parents=True)
    lines = needed((root / "requirements.lock").read_text(encoding="utf-8"))
    alone = {name: line for name, line in lines.items() if torch_index and _CUDA.match(name)}
    listed = folder / "requirements.txt"
    listed.write_text("\n".join(line for name, line in lines.items() if name not in alone), encoding="utf-8")
    get = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    _pip(*get, "--require-hashes", "-r", str(listed))
    if torch_index:  # its builds have hashes of their own
        pinned = [alone[n].split(" ")[0] for n in ("torch", "torchvision") if n in alone]
        _pip(*get, "--index-url", torch_index, *pinned)
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(root))
    listed.unlink()


def _least_python(wheels: Path) -> str:
    """The oldest patch of this Python that all wheels take, such as 3.11.5."""
    wanted = SpecifierSet()
    for path in wheels.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            (name,) = (x for x in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", x))
            told = Parser().parsestr(wheel.read(name).decode("utf-8"))
        wanted &= SpecifierSet(told["Requires-Python"] or "")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return next(v for i in range(100) if wanted.contains(v := f"{here}.{i}"))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise SingError(
            f"pip could not get the packages ({lines[0][:200]}), expected a network and a package index: "
            "try again where there is one."
        )


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SingError(f"{folder} holds something already, expected an empty folder: choose another.")
