"""The `sing` command. A mistake is one sentence on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from sing_utils.cli import results, stores, workshop
from sing_utils.errors import SingError

_PLACES = {  # a disk that is full, a place that can't be written, a path that is something else
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What a vision classifier ignores: run notebooks, build the book, print and compare results.",
)

Profile = Annotated[str, typer.Option(help="Name of a profile, or a YAML file.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="KEY=VALUE", help="Replace a profile value (YAML)."),
]
RunName = Annotated[
    str, typer.Option(help="Name of the run's folder in _build/runs: the last part of its --run-dir.")
]
RunFolder = Annotated[str | None, typer.Option(help="Or the run's folder, wherever it lies.")]


@app.command()
def run(
    profile: Profile = "embedded",
    parameter: Parameters = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these notebooks, by number, such as 02.")
    ] = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Folder of the run; default one of its own for each set of parameters.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run all, and extract features again.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Every step with random weights and a few generated pictures.")
    ] = False,
) -> None:
    """Execute the notebooks of a profile, those that need it."""
    from sing_utils.checkout import project_root
    from sing_utils.execute.notebooks import run_profile
    from sing_utils.execute.rehearsal import GENERATED, rehearsal_parameters
    from sing_utils.runs.profiles import load_profile

    root, overrides = project_root(), parse_parameters(parameter or [])
    if rehearse:
        loaded = load_profile(profile, root=root, **overrides)
        run_dir = run_dir or f"_build/runs/{loaded.name}-rehearsal"
        made = rehearsal_parameters(root, loaded)
        overrides = made | {k: v for k, v in overrides.items() if k not in GENERATED}
    try:
        done = run_profile(root, profile, overrides=overrides, only=only or [], run_dir=run_dir, force=force)
    except KeyboardInterrupt:
        typer.echo("\nStopped. What is finished stays; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    ran = sum(e.ran for e in done)
    typer.echo(f"{ran} of {len(done)} notebooks ran, {len(done) - ran} were up to date.")
    folder = done[0].path.parent.parent
    named = folder.parent == root / "_build" / "runs"
    given = f"--profile {folder.name}" if named else f"--run-dir {folder}"
    typer.echo(f"The run is in {folder}; its book: sing book {given}")


@app.command()
def doctor(
    profile: Profile = "embedded",
    parameter: Parameters = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure this machine.")] = 10.0,
) -> None:
    """Say what a run will download, what is missing, how long it will take here, and how much disk.

    Exit code 1: it can't be done as things are.
    """
    from sing_utils.checkout import project_root
    from sing_utils.execute.doctor import BLOCKERS, report
    from sing_utils.runs.profiles import load_profile

    root = project_root()
    loaded = load_profile(profile, root=root, **parse_parameters(parameter or []))
    said = report(loaded, root, seconds=seconds)
    typer.echo(said)
    if any(word in said for word in BLOCKERS):
        raise typer.Exit(1)


@app.command()
def fetch(
    profile: Annotated[str | None, typer.Option(help="Fetch what this profile needs.")] = None,
    classifier: Annotated[str | None, typer.Option(help="Or one classifier.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Or one encoder.")] = None,
    pin: Annotated[
        Path | None, typer.Option(help="With --profile: write it with the revisions that were got, as YAML.")
    ] = None,
) -> None:
    """Download weights now, for runs without a network later."""
    from sing_utils.execute import needs
    from sing_utils.runs.profiles import load_profile

    if [profile, classifier, encoder].count(None) != 2:
        raise SingError("expected exactly one of --profile, --classifier and --encoder: give one of them.")
    if classifier is not None:
        typer.echo(f"{classifier}: {needs.fetch_classifier(classifier)}")
    elif encoder is not None:
        typer.echo(f"{encoder}: {needs.fetch_encoder(encoder)}")
    else:
        loaded = load_profile(str(profile))
        for line in needs.fetch(loaded):
            typer.echo(line)
        if pin is not None:
            done = ", ".join(needs.pin(loaded, pin)) or "nothing: no weights of the hub"
            typer.echo(f"{pin}: pinned {done}")


@app.command()
def book(
    profile: RunName = "embedded",
    run_dir: RunFolder = None,
) -> None:
    """Build the book from the executed notebooks of a run."""
    from sing_utils.book.build import build_book
    from sing_utils.checkout import project_root

    index = build_book(project_root(), run_dir or profile)
    typer.echo(f"The book is in {index}")
    typer.echo(f"Open it: {index.resolve().as_uri()}  (or `make serve`)")


@app.command()
def live(
    profile: RunName = "embedded",
    run_dir: RunFolder = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The first port to try; 0: any that is free.")
    ] = 8888,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say where to look.")] = False,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options for JupyterLab.")
    ] = None,
) -> None:
    """Open JupyterLab and the built book on one address of this machine; Ctrl-C ends both."""
    from sing_utils.checkout import project_root

    root = project_root()
    if find_spec("jupyterlab") is None:
        raise SingError("JupyterLab is not installed, expected it here: pip install -e '.[live]'.")
    from sing_utils.book.lab import serve_book

    serve_book(root, run_dir or profile, port=port, browser=not no_browser, extra=options or [])


_MORE: tuple[Callable[..., None], ...] = (
    *(stores.extract, stores.fit, stores.pack, stores.analyze, stores.export_head),
    *(results.results, results.compare),
)
for _command in _MORE:
    app.command()(_command)
app.add_typer(workshop.app, name="workshop")


@app.command()
def picture(
    photo: Annotated[str, typer.Argument(help="A picture file, or a name in scikit-image such as chelsea.")],
    out: Annotated[Path, typer.Option(help="File to write: original and equivalent side by side.")],
    toward: Annotated[
        str | None, typer.Option(help="Text to steer toward; without it the null component is removed.")
    ] = None,
    degrees: Annotated[
        float | None, typer.Option(help="Image Score of the steering step, degrees; default: the profile's.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="mini, karlo, mini:FOLDER, karlo:FOLDER or photos:FOLDER; default: the profile's."),
    ] = None,
    save_memory: Annotated[bool, typer.Option(help="Only karlo: for a small GPU, slower.")] = False,
    classifier: Annotated[str | None, typer.Option(help="Default: the profile's first.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Whose settings to use; default: those of --run-dir, else embedded.")
    ] = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Run whose translator to use; default _build/runs/PROFILE.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
) -> None:
    """Draw a photo's feature and its equivalent, which gives the same logits."""
    from sing_utils.files import require_place, written
    from sing_utils.measure.pictures import draw_pair
    from sing_utils.pictures.nearest import NearestPhotos
    from sing_utils.runs.run import DEFAULT, open_run
    from sing_utils.show.gallery import strip

    kind = _picture_kind(out)
    require_place(out)
    if degrees is not None and toward is None:
        raise SingError("--degrees was given without --toward, expected both: null removal has no length.")
    if save_memory and not (backend or "").startswith("karlo"):
        raise SingError("--save-memory is for --backend karlo only, expected both: leave it out otherwise.")
    folder = run_dir and str(Path(run_dir).absolute())
    opened = open_run(
        profile or folder or DEFAULT,
        run_dir=folder,
        must_exist=True,
        picture_backend=_here(backend),
        picture_options={"save_memory": True} if save_memory else None,
        seed=seed,
    )
    name = classifier or opened.profile.classifiers[0]
    photo = str(Path(photo).absolute()) if Path(photo).is_file() else photo
    pair = draw_pair(
        opened, name, photo, toward=toward, degrees=opened.profile.degrees if degrees is None else degrees
    )
    with written(out) as file:
        strip([pair.original, pair.equivalent]).save(file, kind)
    if opened.profile.picture_backend == "mini":
        typer.echo(
            "(mini draws 16 classes only, and anything else as what it knows nearest to it.)", err=True
        )
    score = "" if toward is None else f", AS toward {toward!r} {pair.AS:+.2f}°"
    typer.echo(f"{out}: original and equivalent for {name}. IS {pair.IS:.2f}°{score}.")
    proof = pair.certificate
    typer.echo(f"The logits moved by at most {proof.relative_change:.1e} (rounding: {proof.bound:.1e}).")
    decoder = opened.decoder(name)
    if isinstance(decoder, NearestPhotos):
        for what, z in (("original", pair.z), ("equivalent", pair.z_tilde)):
            for row in decoder.search(z, k=min(5, len(decoder.index))).itertuples():
                typer.echo(f"  {what}, place {row.place}: {row.path} ({row.angle:.1f}°)")


def _picture_kind(out: Path) -> str:
    """What PIL calls a file's kind, by its name."""
    from PIL import Image

    Image.init()
    kind = Image.registered_extensions().get(out.suffix.lower(), "")
    if kind not in Image.SAVE:
        raise SingError(f"--out {out.name} is no kind of picture, expected a name such as pair.png.")
    return kind


def _here(backend: str | None) -> str | None:
    """A backend whose relative folder starts from the working folder, as a shell's user expects."""
    kind, colon, source = (backend or "").partition(":")
    return f"{kind}:{Path(source).absolute()}" if colon and Path(source).is_dir() else backend


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """key=value pairs with YAML values.

    >>> parse_parameters(["seed=3", "classes=[goldfish, no]"])
    {'seed': 3, 'classes': ['goldfish', 'no']}
    """
    from yaml import YAMLError

    from sing_utils.runs.profiles import read_yaml

    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise SingError(f"parameter {pair!r} has no value, expected key=value, such as -p seed=1.")
        try:
            values[key.strip()] = read_yaml(text, key.strip())
        except YAMLError:
            raise SingError(f"parameter {pair!r}: the value is not valid YAML, such as [a, b].") from None
    return values


def main() -> None:
    """Entry point of the `sing` command."""
    if any("~/" in x for x in sys.argv):
        from sing_utils.models.own_files import with_home

        sys.argv[1:] = [with_home(x) for x in sys.argv[1:]]
    try:
        app()
    except SingError as error:
        print(f"sing: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        where = f" {error.filename}" if error.filename else ""
        print(
            f"sing: cannot use{where} ({error.strerror}): free some space, or choose another place.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
