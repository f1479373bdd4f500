"""`sing live`: JupyterLab and the built book on one origin, for one user of this machine.

The book is under ``/book/`` for whoever has the token, and its pages know where JupyterLab has what
they were made from. Of a notebook that is a working copy in ``_build/live/<run>/``, which keeps its
results there too: nothing that people try reaches the run or the tracked notebooks.
"""

from __future__ import annotations

import hashlib
import html
import json
import logging
import os
import re
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import zmq
from jupyter_server.auth.decorator import authorized
from jupyter_server.auth.identity import PasswordIdentityProvider
from jupyter_server.base.handlers import AuthenticatedFileHandler, RedirectWithParams
from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
from nbformat.sign import NotebookNotary
from tornado import web
from traitlets.config import Config

from sing_utils.book.build import require_run, shown_notebook
from sing_utils.book.downloads import ADDED
from sing_utils.errors import SingError
from sing_utils.workshop import notebooks as workshop
from sing_utils.workshop.stick import prepare

__all__ = ["copy_run", "serve_book", "source_of"]

#: The line of a notebook's JSON in which papermill wrote the run's folder.
_RUN_DIR = re.compile(rb'(?m)^(\s*"run_dir = \\").*(\\"(?:\\n)?",?)$')


def serve_book(
    root: Path, profile: str, *, port: int = 8888, browser: bool = True, extra: Sequence[str] = ()
) -> None:
    """Serve JupyterLab and the book until Ctrl-C or SIGTERM ends both and every kernel.

    Args:
        root: of the checkout, JupyterLab's top folder.
        profile: the run that the book shows: name of its folder in `_build/runs`, or the folder.
        port: the first one to try; 0 takes any that is free.
        browser: open the book in a browser.
        extra: further command-line options of JupyterLab.

    Raises:
        SingError: if there is no book or no such run, or `extra` has an option that JupyterLab does
            not know or that would let others in.
    """
    root = Path(root).resolve()
    pages, run = _require_book(root, profile)
    app = _open_lab(root, port, browser, list(extra))
    live = _copies(root, run)
    if kept := copy_run(run, live):
        print(f"The run has newer ones, but you changed {', '.join(kept)} in _build/live/{live.name}/.")
        print("They are kept: delete one to get the run's.")
    if (pages / workshop.FOLDER).is_dir() and not (live / "workshop").exists():
        prepare(root, live / "workshop")  # participants' copies, where their pages' button looks
    if not _shows(pages, run):
        print(f"The book is not of this run as it is now: `sing book --run-dir {run}` builds it.")

    def link(page: str) -> str:
        source = source_of(page, root, live)
        tree = f"/tree/{quote(source.relative_to(root).as_posix())}" if source else ""
        return f"{app.base_url}lab{tree}"

    book = f"{app.base_url}book"
    files = {"path": str(pages), "default_filename": "index.html", "link": link}
    app.web_app.add_handlers(
        ".*$", [(book, RedirectWithParams, {"url": f"{book}/"}), (f"{book}/(.*)", _BookHandler, files)]
    )
    app.default_url = f"{book}/index.html"  # what the browser opens
    app.init_httpserver()
    _end_on_signals(app)
    app.io_loop.add_callback(_announce, app)
    app.start()


def _copies(root: Path, run: Path) -> Path:
    """Where the working copies of a run are; two of one name, in different places, do not mix."""
    elsewhere = run.parent != root / "_build" / "runs"
    return (
        root / "_build" / "live" / (f"{run.name}-{_digest(str(run).encode())[:6]}" if elsewhere else run.name)
    )


def _require_book(root: Path, profile: str) -> tuple[Path, Path]:
    """The folders of the built book and of the run, if both are there."""
    pages = (root / "_build" / "html").resolve()
    if not (pages / "index.html").is_file():
        raise SingError("there is no book in _build/html, expected a built one: make it with `make book`.")
    return pages, require_run(root, profile)


def _open_lab(root: Path, port: int, browser: bool, extra: list[str]) -> ServerApp:
    """JupyterLab's server, set up but not listening yet."""
    if extra and not extra[0].startswith("-"):
        raise SingError(f"{extra[0]!r} is no option of JupyterLab, expected some such as -- --allow-root.")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for the kernels, see runner.py
    private = {
        "ip": "127.0.0.1",
        "sock": "",
        "root_dir": str(root),
        "identity_provider_class": PasswordIdentityProvider,
        "allow_remote_access": False,
        "allow_origin": "",
        "allow_origin_pat": "",
        "disable_check_xsrf": False,
    }
    identity = {"token": secrets.token_urlsafe(32), "hashed_password": ""}
    offline = {"news_url": None, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}
    config = Config()  # given in code, it wins over the user's files
    config.Application.log_level = logging.WARNING
    config.ServerApp = Config(private, port=port, open_browser=browser, password="")
    config.ServerApp.tornado_settings = {"page_config_hook": _without_news}
    config.PasswordIdentityProvider = Config(identity)
    config.KernelManager.transport_encryption = "auto" if zmq.has("curve") else "disabled"
    config.LabApp = Config(offline, extension_manager="readonly", open_browser=browser)
    # Jupyter means milliseconds by this setting and Tornado seconds, which neither user nor we can mend.
    logging.getLogger("tornado.general").addFilter(lambda r: "websocket_ping_timeout" not in str(r.msg))
    app: ServerApp = LabApp.make_serverapp(config=config, jpserver_extensions={"jupyterlab": True})
    app.aliases.update(LabApp.aliases)
    app.initialize(argv=extra, starter_extension=LabApp.name, new_httpserver=False)
    _require_known(app)
    _require(app, private)
    _require(app.identity_provider, identity)
    if hasattr(os, "geteuid") and os.geteuid() == 0 and not app.allow_root:
        raise SingError(
            "you are root, expected a user whose notebooks can't change the whole machine: "
            "`sing live -- --allow-root` starts all the same."
        )
    return app


def _without_news(_handler: Any, page: dict[str, Any]) -> dict[str, Any]:
    """Let JupyterLab's page not ask whether it may get news from the network."""
    off = [*page.get("disabledExtensions", []), "@jupyterlab/apputils-extension:announcements"]
    return page | {"disabledExtensions": off}


def _require_known(app: ServerApp) -> None:
    """Refuse misspelt options, of which Jupyter would only warn."""
    known = {c.__name__: c.class_trait_names(config=True) for c in (*app.classes, type(app), LabApp)}
    for section, values in app.cli_config.items():
        names = [f"{section}.{name}" for name in values] if isinstance(values, Config) else [section]
        for name in names:
            if "." not in name or (section in known and name.split(".")[1] not in known[section]):
                raise SingError(f"JupyterLab has no option --{name}, see `jupyter lab --help-all` for them.")


def _require(configured: Any, wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if getattr(configured, name) != value:
            raise SingError(
                f"JupyterLab's {name} was set to {getattr(configured, name)!r}, expected it left alone: "
                "`sing live` is for one user of this machine and this checkout; see `jupyter lab` for others."
            )


def _end_on_signals(app: ServerApp) -> None:
    """Let Ctrl-C end the server: Jupyter would ask first, or without a terminal leave its kernels."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as by nohup
        numbers.append(signal.SIGHUP)

    def end(*_: Any) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not stop the tidying up
        app.io_loop.add_callback_from_signal(app.io_loop.call_later, 15, app.io_loop.stop)  # whatever hangs
        app.io_loop.add_callback_from_signal(print, "\nEnding JupyterLab and its kernels ...", flush=True)
        app.stop(from_signal=True)

    for number in numbers:
        signal.signal(number, end)


def _announce(app: ServerApp) -> None:
    token = app.identity_provider.token
    print(f"The book:    {app.connection_url}book/index.html?token={token}")
    print(f"JupyterLab:  {app.connection_url}lab?token={token}")
    print("Ctrl-C ends both.", flush=True)


# Working copies


def copy_run(run: Path, live: Path) -> list[str]:
    """Copy a run's notebooks and results to `live`, and again when the run has newer ones.

    A notebook whose cells somebody changed there is kept, and so are then the results beside it.
    Outputs don't count: JupyterLab rewrites some as soon as it opens a notebook.

    Returns the notebooks that were kept although the run has newer ones.
    """
    record = live / ".copied.json"  # {file: what was copied, its cells}, as hashes
    try:
        copied = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        copied = {}
    kept: list[str] = []
    notary = NotebookNotary()
    for name, content in _run_files(run, live):
        path, fresh = live / name, [_digest(content), _digest(_cells(content))]
        if path.exists():
            old = copied.get(name, [None, fresh[1]])
            if fresh[0] == old[0] or (kept and not name.endswith(".ipynb")):
                continue
            if name.endswith(".ipynb") and _digest(_cells(path.read_bytes())) not in (old[1], fresh[1]):
                kept.append(name)
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name.endswith(".ipynb"):
            notary.sign(nbformat.reads(content.decode(), as_version=4))  # trusted: it was made here
        copied[name] = fresh
    live.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(copied, indent=1), encoding="utf-8")
    return kept


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _cells(notebook: bytes) -> bytes:
    """What somebody wrote into a notebook; of any other file all of it."""
    try:
        return repr([(c["cell_type"], "".join(c["source"])) for c in json.loads(notebook)["cells"]]).encode()
    except (ValueError, KeyError, TypeError):
        return notebook


def _run_files(run: Path, live: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name in `live`, contents); the notebooks' `run_dir` becomes `live`."""
    folder = json.dumps(f"_build/live/{live.name}")[1:-1].encode()
    for path in _visible(run / "executed", ".ipynb"):
        own = _RUN_DIR.sub(lambda line: line[1] + folder + line[2], path.read_bytes())
        yield path.relative_to(run / "executed").as_posix(), own
    for path in (*_visible(run / "results"), *_visible(run / "artifacts")):
        yield path.relative_to(run).as_posix(), path.read_bytes()


def _visible(folder: Path, suffix: str = "") -> list[Path]:
    """The files of a folder, without hidden ones such as JupyterLab's checkpoints."""
    found = (p for p in sorted(folder.rglob(f"*{suffix}")) if p.is_file())
    return [p for p in found if not any(x.startswith(".") for x in p.relative_to(folder).parts)]


def _shows(pages: Path, run: Path) -> bool:
    """Whether the book was built from the run's notebooks as they are now."""

    def cells(notebook: dict[str, Any]) -> list[Any]:
        own = (c for c in notebook["cells"] if c.get("id") != ADDED)
        return [(c["source"], c.get("outputs")) for c in own]

    made = {pages / "_sources" / "notebooks" / p.name: p for p in (run / "executed").glob("*.ipynb")}
    return all(
        cells(json.loads(page.read_bytes())) == cells(shown_notebook(notebook, run.name))
        for page, notebook in made.items()
        if page.is_file()
    )


# The book's pages


def source_of(page: str, root: Path, live: Path) -> Path | None:
    """The file that a page such as ``book/intro.html`` was made from: prose, or a working copy."""
    name = page.removesuffix(".html")
    notebook = name.removeprefix("notebooks/")
    path = root / f"{name}.md" if notebook == name else live / f"{notebook}.ipynb"
    return path if path.is_file() else None


class _BookHandler(AuthenticatedFileHandler):
    """The book's files as they are, and its pages with a link to JupyterLab in their root element."""

    def initialize(self, link: Callable[[str], str], **kwargs: Any) -> None:  # type: ignore[override]
        super().initialize(**kwargs)
        self.link = link

    @property
    def content_security_policy(self) -> str:
        """Jupyter's for pages of its own; the one for files would take the book's scripts their origin."""
        return str(super(AuthenticatedFileHandler, self).content_security_policy)

    def check_xsrf_cookie(self) -> None:
        """Reading changes nothing, and a bookmark has no Referer; other sites: see `set_headers`."""

    @web.authenticated
    @authorized
    async def get(self, path: str, include_body: bool = True) -> None:  # type: ignore[override]
        """Send a file."""
        if not path.endswith(".html"):
            return await web.StaticFileHandler.get(self, path, include_body)
        self.path = self.parse_url_path(path)
        file = Path(self.validate_absolute_path(self.root, self.get_absolute_path(self.root, self.path)))
        link = html.escape(self.link(file.relative_to(self.root).as_posix()))
        page = file.read_text(encoding="utf-8")
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.set_private()
        self.finish(re.sub(r"<html\b", lambda tag: f'{tag[0]} data-lab="{link}"', page, count=1))

    def set_headers(self) -> None:
        """Also for files with ?v=, since a page that is not rebuilt keeps an old one."""
        super().set_headers()
        self.set_private()

    def set_private(self) -> None:
        """Ask again each time, and be no part of another server's pages."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
