"""Executing the notebooks through papermill, only those whose inputs changed.

A notebook runs again when its source, the package, the parameters, the data or the libraries changed.
None needs another, so they run side by side. A failed run leaves the last good copy where it was.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any, ClassVar
from weakref import WeakSet

import papermill
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError

from sing_utils.checkout import package_files
from sing_utils.errors import SingError, reason
from sing_utils.execute.records import is_current, write_record
from sing_utils.features.digests import digest_files
from sing_utils.features.store import feature_cache, open_stored
from sing_utils.files import locked
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.encoders import judge_of_stores, load_encoder
from sing_utils.models.networks import files_of
from sing_utils.models.own_files import files_in
from sing_utils.pictures.by_name import require_fit
from sing_utils.runs.profiles import (
    Profile,
    class_names,
    load_profile,
    require_known,
    rooted,
    safe_name,
    save_profile,
    worded,
)
from sing_utils.runs.run import all_pictures, claim_folder, read_photo, run_folder, run_pictures
from sing_utils.sources.folders import described

# Rooms that decide how a book looks or a command reads, not what a notebook computes.
_NOT_INPUTS = {"book", "cli", "execute", "workshop"}
_JOBS = 2  # notebooks side by side: each has a network's or a decoder's memory
_LONG_TEXT = 200  # characters
_LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "diffusers",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "altair",
    "anywidget",
    "papermill",
)
_MORE_LIBRARIES = ("pyarrow",)  # noted in the record of a run


class _Kernel(AsyncKernelManager):
    """Known by whoever has to stop it: a notebook may be in the middle of minutes of work."""

    started: ClassVar[WeakSet[_Kernel]] = WeakSet()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.started.add(self)

    @classmethod
    def stop_until(cls, waiting: Sequence[Future[Any]]) -> None:
        """End every kernel, with the processes that it started, until nothing is left to wait for."""
        while wait(waiting, timeout=0.1).not_done:
            for kernel in list(cls.started):
                process = getattr(kernel.provisioner, "process", None)
                if process is not None and process.poll() is None:
                    group = getattr(kernel.provisioner, "pgid", None)
                    with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                        process.kill() if group in (None, os.getpgrp()) else os.killpg(group, signal.SIGKILL)


@dataclass(frozen=True)
class Executed:
    """What happened to one notebook: its executed copy, and whether it ran now."""

    path: Path
    ran: bool


def run_profile(
    root: Path,
    profile: str,
    *,
    overrides: dict[str, Any] | None = None,
    only: Sequence[str] = (),
    run_dir: str | None = None,
    force: bool = False,
    progress: bool = True,
    jobs: int | None = None,
) -> list[Executed]:
    """Execute the notebooks of a profile.

    Args:
        root: of the checkout.
        profile: name of a profile, or a YAML file.
        overrides: profile values to replace.
        only: prefixes of notebook names, such as "02"; empty: all.
        run_dir: folder of the run, relative to root; None: see `sing_utils.runs.run.run_folder`.
        force: run even what did not change, and extract features again.
        progress: say what each notebook did.
        jobs: notebooks that run at once; None: two, where there are two cores.

    Raises:
        SingError: for bad parameters (before anything runs), an unknown notebook, a folder in which
            another run is at work, or a notebook that failed; the message names the cell.
    """
    overrides = overrides or {}
    require_known(overrides, "the given parameters")  # before `root` could be taken for ours
    loaded = load_profile(profile, root=root, **overrides)
    run_dir = run_dir or run_folder(loaded, overrides)
    notebooks = find_notebooks(root)
    chosen = _choose(notebooks, only)
    _require_inputs(root, loaded, _class_names(root, profile, overrides), progress)
    _require_networks(loaded, chosen)
    for notebook in chosen:
        _require_parameters(notebook)
    with locked(root / run_dir, wait=False):
        # A part of the notebooks leaves the tables of the others, which must be of the same parameters.
        claim_folder(root / run_dir, loaded, anew=chosen == notebooks)
        parameters = _parameters(root, profile, loaded, run_dir, overrides)
        return _run_notebooks(root, loaded, chosen, parameters, force=force, progress=progress, jobs=jobs)


def _run_notebooks(
    root: Path,
    loaded: Profile,
    chosen: Sequence[Path],
    parameters: dict[str, Any],
    *,
    force: bool,
    progress: bool,
    jobs: int | None,
) -> list[Executed]:
    """Execute what is not current, side by side, and write the run's record."""
    notebooks = find_notebooks(root)
    # Threads that spin while they wait make a busy machine many times slower; kernels inherit this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    jobs = jobs or min(_JOBS, os.cpu_count() or 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    folder = root / parameters["run_dir"]
    key = _inputs_key(root, loaded, parameters)
    _forget_models(folder, key, feature_cache(root) if force else None)
    keys = {n: _digest(key, n.read_text(encoding="utf-8")) for n in notebooks}
    start = time.time()
    executed: list[Executed] = []
    with ThreadPoolExecutor(jobs) as pool:  # each starts a kernel
        given = (folder, parameters, force, progress)
        waiting: list[Future[Executed]] = []
        try:
            with _interrupted() as stopped:
                waiting += (pool.submit(execute, n, keys[n], *given) for n in chosen)
                while wait(waiting, timeout=0.1, return_when=FIRST_EXCEPTION).not_done:
                    if stopped.is_set() or any(f.done() and f.exception() for f in waiting):
                        break
                for future in waiting:
                    future.cancel()
                if stopped.is_set():
                    _Kernel.stop_until(waiting)
                    raise KeyboardInterrupt
            executed = [future.result() for future in waiting if not future.cancelled()]
            if chosen == notebooks and all(e.ran for e in executed):
                _forget_tables(folder, start)
        finally:  # also after a failure: tables may be new
            wait(waiting)
            if any(e.ran for e in executed) or len(executed) < len(chosen) or not is_current(folder):
                _record(root, loaded, folder, keys)
    return executed


@contextlib.contextmanager
def _interrupted() -> Iterator[Event]:
    """An event that Ctrl-C sets: raised anywhere, it could leave a lock that a notebook waits for."""
    event = Event()
    if current_thread() is not main_thread():
        yield event
        return
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def find_notebooks(root: Path) -> list[Path]:
    """The numbered notebooks, in order."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]*_*.ipynb"))
    if not found:
        raise SingError("notebooks/ holds no numbered notebook: restore it from the repository.")
    return found


def _choose(notebooks: list[Path], only: Sequence[str]) -> list[Path]:
    for name in only:
        if not any(_is_called(n, name) for n in notebooks):
            raise SingError(f"no notebook {name!r}, expected one of {', '.join(n.stem for n in notebooks)}.")
    return [n for n in notebooks if not only or any(_is_called(n, name) for name in only)]


def _is_called(notebook: Path, name: str) -> bool:
    """Whether a name is a notebook's number or begins its name: "02" is not 02b."""
    number = notebook.stem.partition("_")[0]
    return name == number or (len(name) > len(number) and notebook.stem.startswith(name))


def _class_names(root: Path, profile: str, overrides: dict[str, Any]) -> dict[str, str]:
    """Label -> name of the profile's own classes, by which a list of classes may pick."""
    others = {key: value for key, value in overrides.items() if key not in ("classes", "images")}
    return load_profile(profile, root=root, **others).classes or {}


def _require_inputs(root: Path, profile: Profile, names: dict[str, str], progress: bool) -> None:
    """Find out now, not in the middle of a notebook, what the data can't give."""
    if profile.pictures is None and profile.features is None:
        raise SingError(
            f"the profile {profile.name} brings no pictures, expected some: give -p imagenet_dir=FOLDER, or "
            f"-p images=FOLDER for your own; `sing run --profile {profile.name} --rehearse` needs none."
        )
    for photo in profile.photos:
        read_photo(root, photo)
    if profile.pictures is not None:
        source = all_pictures(root, profile)
        labels = set(source.index["label"])
        if progress:
            unused = "Pictures without a label are not used." if "" in labels and len(labels) > 1 else ""
            print(f"{described(source)} {unused}".rstrip(), flush=True)
    else:
        stores = (*profile.classifiers, *filter(None, (profile.encoder, profile.second_encoder)))
        opened = [
            open_stored(root / str(profile.features), safe_name(name), safe_name(profile.source_of(name)))
            for name in stores
        ]
        for store in opened if progress else ():
            if store.unsaid:
                print(store.unsaid, flush=True)
        labels = set(opened[0].index["label"])
    labels -= {""}
    if not labels:
        raise SingError(
            f"{profile.pictures} says nowhere what its pictures show, expected a label for each: put them "
            "into one folder a class, or list them in a .csv with the columns path and label."
        )
    known = sorted(names.get(label, label) for label in labels)
    for label in profile.classes or {}:
        if label not in labels:
            given = names.get(label, label)
            raise _none_of(f"classes: there is no picture of {given!r}, expected some of", given, known)
    found = {label: names.get(label, name) for label, name in class_names(labels).items()}
    classes = list((profile.classes or found).values())
    if profile.source_class is not None and profile.source_class not in classes:
        said = f"source_class: {profile.source_class!r} is no class, expected one of"
        raise _none_of(said, profile.source_class, classes)
    if profile.second_encoder is not None and "encoder" in profile.controls:
        _require_judge(root, profile)
    encoder = load_encoder(rooted(profile.encoder, root), rehearse=profile.rehearse)
    wordings = profile.wordings if "prompts" in profile.controls else [profile.prompt_template]
    texts = [worded(w, x) for w in wordings for x in (*classes, *profile.targets)] + profile.phrases
    knows_few = profile.encoder.partition(":")[0] == "planted"  # words, and is quick
    if long := [t for t in texts if knows_few or len(t) > _LONG_TEXT]:
        encoder.encode_text(long)  # only these can be too long, and the text tower takes seconds to load
    require_fit(profile.picture_backend, encoder, base=root)


def _none_of(said: str, given: str, known: list[str]) -> SingError:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.0)[0]
    return SingError(f"{said} {', '.join(known[:20])}; did you mean {near!r}?")


def _require_judge(root: Path, profile: Profile) -> None:
    """Refuse a second encoder that is built on a classifier which it is to judge."""
    name = str(profile.second_encoder)
    second = load_encoder(rooted(name, root), rehearse=profile.rehearse)
    for classifier in profile.classifiers:
        source = profile.source_of(classifier)
        if profile.pictures is None:
            folder = root / str(profile.features)
            store = open_stored(folder, safe_name(classifier), safe_name(source))
            judge_of_stores(second, store, open_stored(folder, safe_name(name)))
        elif not source.startswith("head:"):
            second.judge_of(load_classifier(rooted(source, root), rehearse=profile.rehearse).identity)


def _require_networks(profile: Profile, chosen: Sequence[Path]) -> None:
    """Refuse notebooks that start from pixels where a classifier is a head alone."""
    heads = [name for name in profile.classifiers if profile.source_of(name).startswith("head:")]
    texts = {n: n.read_text(encoding="utf-8") for n in chosen} if heads else {}
    wanting = [n for n, t in texts.items() if "run.classifier(" in t]
    if not profile.photos:  # some want a network for these only
        wanting = [n for n in wanting if "run.profile.photos" not in texts[n]]
    if wanting:
        others = " ".join(f"--only {n.stem.partition('_')[0]}" for n in chosen if n not in wanting)
        raise SingError(
            f"{', '.join(n.stem for n in wanting)} start from pixels, and {heads[0]} is a head without a "
            f"network, expected one: run the others, {others}"
            + ("; more of them with -p photos=[]." if profile.photos else ".")
        )


def _forget_models(folder: Path, key: str, cache: Path | None) -> None:
    """Drop what a run noted about its models, unless its inputs are still the same.

    With `cache`, where extracted features are kept, drop it anyway, and this run's features with it.
    """
    stamp = folder / "executed" / ".inputs"
    if cache is None and stamp.exists() and stamp.read_text() == key:
        return
    if cache is not None:
        for note in (folder / "artifacts" / "features").glob("*.json"):
            shutil.rmtree(cache / json.loads(note.read_text())["store"], ignore_errors=True)
    for noted in ("heads", "features", "translators"):
        shutil.rmtree(folder / "artifacts" / noted, ignore_errors=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)


def _forget_tables(folder: Path, start: float) -> None:
    """Drop tables that are older than a run of all notebooks: none of them saves these any more."""
    for table in (folder / "results").glob("*.parquet"):
        if table.stat().st_mtime < start:
            table.unlink()


def _parameters(
    root: Path, name: str, loaded: Profile, run_dir: str, overrides: dict[str, Any]
) -> dict[str, Any]:
    """What papermill injects: the profile (resolved, where it was overridden) and the run's folder."""
    folder = root / run_dir
    if overrides:
        save_profile(loaded, folder / "profile.yaml")
    return {"profile": f"{run_dir}/profile.yaml" if overrides else name, "run_dir": run_dir}


def _require_parameters(notebook: Path) -> None:
    """Papermill accepts unknown parameters silently; we do not."""
    known = papermill.inspect_notebook(str(notebook))
    missing = {"profile", "run_dir"} - set(known)
    if missing:
        raise SingError(
            f"{notebook.name} takes no parameter {sorted(missing)[0]!r}, expected a cell tagged "
            f"`parameters` that sets it; it has {', '.join(known) or 'none'}."
        )


def execute(
    notebook: Path, key: str, folder: Path, parameters: dict[str, Any], force: bool, progress: bool
) -> Executed:
    """Run a notebook, from the folder that it is in, unless its copy in `folder` was made by the same key.

    Raises:
        SingError: if one of its cells fails; what it did until then is in `folder`/failed.
    """
    out = folder / "executed" / notebook.name
    stamp = folder / "executed" / f".{notebook.stem}.key"
    if not force and _is_current(out, key):
        if progress:
            print(f"{notebook.stem}: unchanged", flush=True)
        return Executed(out, ran=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    start = time.monotonic()
    attempt = folder / "failed" / notebook.name
    attempt.parent.mkdir(exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(attempt),
            parameters=parameters,
            resources={"metadata": {"path": str(notebook.parent)}},  # cwd= would move the whole process
            kernel_name="python3",
            language="python",
            kernel_manager_class=_Kernel,
            progress_bar=False,
            log_output=False,
            # The kernel would greet each run with a warning on loopback traffic and end it with an error.
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        raise SingError(
            f"{notebook.name} stopped in cell {error.cell_index}: {error.ename}: {error.evalue} "
            f"(the whole traceback is in {attempt.resolve()})."
        ) from None
    except RuntimeError as error:  # its kernel died, or never began
        raise SingError(
            f"{notebook.name} stopped because its process was ended ({reason(error)}), expected it to live: "
            "memory may be full; close other programs, or run it alone with --only "
            f"{notebook.stem.partition('_')[0]}."
        ) from None
    os.replace(attempt, out)
    stamp.write_text(key)
    if progress:
        print(f"{notebook.stem}: {time.monotonic() - start:.0f} s", flush=True)
    return Executed(out, ran=True)


def _record(root: Path, profile: Profile, folder: Path, keys: dict[Path, str]) -> None:
    """Write what made the numbers of a run beside them."""
    current = {n.stem: _is_current(folder / "executed" / n.name, key) for n, key in keys.items()}
    versions = {name: _version(name) for name in (*_LIBRARIES, *_MORE_LIBRARIES)}
    write_record(root, profile, folder, current=current, versions=versions)


def _is_current(out: Path, key: str) -> bool:
    """Whether an executed copy was made from these very inputs."""
    stamp = out.with_name(f".{out.stem}.key")
    return out.exists() and stamp.exists() and stamp.read_text() == key


def _inputs_key(root: Path, profile: Profile, parameters: dict[str, Any]) -> str:
    """Everything but the notebooks that results depend on."""
    code = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in package_files(root).items()
        if name.split("/")[1] not in _NOT_INPUTS
    }
    stores = (root / profile.features).glob("*/manifest.json") if profile.features else []
    data = [p.read_text() for p in sorted(stores)]
    embedded = root / "data" / "embedded"
    weights = sorted([*(embedded / "encoder").glob("*"), *_weights_of(embedded / "decoder")])
    weights += sorted((root / "data" / "planted" / "weights").glob("*"))
    weights += sorted((root / "data" / "published").glob("*.yaml"))  # claims are judged where they are said
    data += [hashlib.sha256(p.read_bytes()).hexdigest() for p in weights if p.is_file()]
    files = [Path(f) for f in run_pictures(root, profile).files] if profile.pictures is not None else []
    files += [f for name in profile.classifiers for f in files_of(rooted(profile.source_of(name), root))]
    for encoder in filter(None, (profile.encoder, profile.second_encoder)):
        place = rooted(encoder, root).partition(":")[2]
        files += files_in(Path(place)) or files_in(Path(place.partition("/")[2]))
    data += [digest.hex() for digest in digest_files([root / photo for photo in profile.photos])]
    files += files_in(root / (profile.picture_backend.partition(":")[2] or "nowhere"))
    data += [f"{f} {s.st_size} {s.st_mtime_ns}" for f in files for s in [f.stat()]]
    versions = {name: _version(name) for name in _LIBRARIES}
    return _digest(profile.model_dump_json(), json.dumps([parameters, code, data, versions]))


def _weights_of(decoder: Path) -> list[Path]:
    return [p for p in decoder.rglob("*") if p.suffix in (".json", ".safetensors")]


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"  # an optional one


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
