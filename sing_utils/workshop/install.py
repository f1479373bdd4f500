"""Installs the workshop from this stick, without a network:  python3 install.py [FOLDER]

It makes FOLDER (sing-workshop in your home, unless you name another) with a Python environment of its own
and the notebooks. Nothing else on this computer is touched. To undo it, delete FOLDER.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

STICK = Path(__file__).resolve().parent


def main() -> str | None:
    """Install, or say in one sentence why not."""
    least, system = (STICK / "wheels" / "PYTHON").read_text(encoding="utf-8").split()
    wanted = tuple(int(x) for x in least.split("."))
    here = sys.version_info[:3]
    if sys.platform != system or here[:2] != wanted[:2] or here < wanted:
        return (
            f"This is Python {'.'.join(map(str, here))} on {sys.platform}, expected {least} or a later "
            f"{wanted[0]}.{wanted[1]} on {system}, for which this stick was made: start this file with that "
            "Python, or read along in book/index.html."
        )
    folder = Path(sys.argv[1] if sys.argv[1:] else Path.home() / "sing-workshop").absolute()
    own = folder / "workshop"
    if own.exists():
        return f"{own} is there already: you may be done. If not, delete it, or name another folder."
    env = folder / "venv"
    venv.create(env, with_pip=True, clear=True)
    binaries = env / ("Scripts" if sys.platform == "win32" else "bin")
    wheels = [str(p) for p in sorted((STICK / "wheels").glob("*.whl"))]
    print(f"Installing {len(wheels)} packages into {env}: some minutes, without a word.", flush=True)
    python = str(binaries / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    options = ["--disable-pip-version-check", "--no-cache-dir"]
    if subprocess.call([*install, *options, *wheels]):
        return "pip could not install the packages, see above: is the disk full, or the stick damaged?"
    shutil.copytree(STICK / "workshop", own)
    if subprocess.call([python, "-I", "-m", "sing_utils.cli", "workshop", "check", str(own)]):
        return "The check failed, see above."
    print(f"\nTo begin:\n    {binaries / 'jupyter'} lab {own}")
    return None


if __name__ == "__main__":
    sys.exit(main())
