"""What a store survives, tried many times: `make torture`, whose last results stand in the book.

Each trial ends in one question: does the store hold, byte by byte, what an undisturbed run writes?
The processes are real ones, forked so that two hundred of them start in minutes, and killed with SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fakes import Fake, contents, run
from PIL import Image
from tqdm import tqdm
from zoo import corners_of, zoo

from sing_utils import SingError
from sing_utils.features import extraction
from sing_utils.features.store import FeatureStore

ROWS, SHARD = 40, 4  # ten shards of two batches
PAGE = Path(__file__).resolve().parents[2] / "book" / "torture.md"


@dataclass(frozen=True)
class Result:
    """A line of the page."""

    what: str
    trials: str
    outcome: str
    seconds: float


def wide():
    """The cheap model, with shards that take a moment to write."""
    return Fake(change=lambda x, _: x.repeat(1, 256))  # (B, 1536)


def make_pictures(folder, n=ROWS):
    """n small pictures in three classes, one of them unreadable."""
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"c{i % 3}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(path)
    (folder / "c0" / "000.png").write_bytes(b"no picture")
    return folder


def fork(work):
    """A process of its own that does `work` and ends; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            tqdm.set_lock(threading.RLock())  # tqdm's own is shared by all forks, and dies with its holder
            work()
        code = 0
    finally:
        os._exit(code)


def ended(child):
    """Wait for a process; whether it ended well."""
    return os.waitpid(child, 0)[1] == 0


def require_same(out, whole, what):
    """The question."""
    if contents(out) != whole:
        names = {**contents(out), **whole}
        differ = [n for n in names if contents(out).get(n) != whole.get(n)]
        raise AssertionError(f"{what}: {', '.join(differ)} of {out} differ from an undisturbed run")


# -------------------------------------------------------------------------------------- trials


def kills(photos, folder, n, *, seed=0):
    """SIGKILL at n random moments; then the run is repeated, and may be killed again."""
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    whole = contents(run(photos, folder / "whole", wide()).path)
    once = time.perf_counter() - start
    done = stores = 0
    while done < n:
        out = folder / f"killed-{stores}"
        stores += 1
        while done < n:
            reader, writer = os.pipe()
            child = fork(lambda out=out, writer=writer: announced_run(photos, out, writer))
            os.close(writer)
            time.sleep(rng.uniform(0, 1.1 * once))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
            with open(reader, "rb") as announced:
                for name in announced.read().decode().split():
                    if not (out / name).exists() or (out / name).read_bytes() != whole[name]:
                        raise AssertionError(f"{name} was written and is lost after SIGKILL")
            if rng.random() < 0.5:
                break
        if not ended(fork(lambda out=out: run(photos, out, wide()))):
            raise AssertionError(f"{out} can't be resumed")
        require_same(out, whole, "after SIGKILL")
        shutil.rmtree(out)
    return Result(
        "killed with SIGKILL at a random moment, then resumed",
        f"{n} kills, {stores} stores",
        "every store as if undisturbed; no shard that was once written was lost",
        time.perf_counter() - start,
    )


def announced_run(photos, out, writer):
    """A run that says which shards are written."""
    real = extraction.write_shard

    def write(file, *arguments):
        digest = real(file, *arguments)
        os.write(writer, f"{file.name}\n".encode())
        return digest

    extraction.write_shard = write
    run(photos, out, wide())


def damage(photos, folder, n, *, seed=0):
    """A random byte changed, or the end cut off, of a random file; finished and unfinished stores."""
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    out = run(photos, folder / "out", wide()).path
    whole = contents(out)
    names = [x for x in whole if x != "manifest.json"]
    for trial in range(n):
        name = names[rng.integers(len(names))]
        path, data = out / name, bytearray(whole[name])
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        else:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        if name != "rejects.parquet":  # which no reader of features needs
            with contextlib.suppress(SingError):
                FeatureStore.open(out).read("features")
                raise AssertionError(f"damage of {name} was read")
        if trial % 2:
            (out / "manifest.json").unlink()
        run(photos, out, wide())
        require_same(out, whole, f"after damage of {name}")
    return Result(
        "a random bit or the end of a random file changed",
        f"{n} files",
        "named when read; made anew when extracted again",
        time.perf_counter() - start,
    )


def full_disk(photos, folder, sizes):
    """A disk that is too small, then larger."""
    start = time.perf_counter()
    whole = contents(run(photos, folder / "whole", wide()).path)
    how = "a small file system" if can_mount(folder / "disk") else "a limit on the size of files"
    for size in sizes:
        with small_disk(folder / "disk", size) as (disk, attempt, enlarge):
            out = disk / "out"
            if not attempt(lambda out=out: full_run(photos, out)):
                raise AssertionError(f"a disk of {size} bytes was not said to be full")
            left = contents(out) if out.exists() else {}
            if "manifest.json" in left or [x for x in left if x.endswith(".tmp")]:
                raise AssertionError(f"a full disk left {', '.join(left)}")
            enlarge()
            run(photos, out, wide())
            require_same(out, whole, f"after a full disk of {size} bytes")
    return Result(
        f"a full disk ({how}), then space",
        f"{len(sizes)} sizes",
        "a clear error; nothing half written; resumed as if undisturbed",
        time.perf_counter() - start,
    )


def full_run(photos, out):
    """A run that must end with the sentence about space."""
    try:
        run(photos, out, wide())
    except SingError as error:
        if "cannot write" in str(error) or "cannot lock" in str(error):
            return
        raise
    raise AssertionError("there was space")


def can_mount(folder):
    """Whether this process may make a file system in memory."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@contextlib.contextmanager
def small_disk(folder, size):
    """A folder with space for `size` bytes: itself, how to try something in it, how to enlarge it."""
    if can_mount(folder):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
        try:
            yield (
                folder,
                lambda work: ended(fork(work)),
                lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True),
            )
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return

    def limited(work):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 12, size // 12))  # of one file
        work()

    yield folder, lambda work: ended(fork(lambda: limited(work))), lambda: None
    shutil.rmtree(folder)


def writers(photos, folder, rounds, *, seed=0):
    """Three processes on one store; in every other round one of them is killed."""
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    whole = contents(run(photos, folder / "whole", wide()).path)
    once = time.perf_counter() - start
    for trial in range(rounds):
        out = folder / f"shared-{trial}"
        children = [fork(lambda out=out: run(photos, out, wide())) for _ in range(3)]
        if trial % 2:
            time.sleep(rng.uniform(0, once))
            os.kill(children[0], signal.SIGKILL)
        fine = [ended(child) for child in children]
        if not all(fine[trial % 2 :]):
            raise AssertionError(f"of three writers some failed: {fine}")
        require_same(out, whole, "after three writers")
        shutil.rmtree(out)
    return Result(
        "three processes write one store at the same time, one of them killed in every other round",
        f"{rounds} rounds",
        "one writes, the others wait and find it finished",
        time.perf_counter() - start,
    )


def picture_zoo(folder):
    """Every kind of picture file in one folder, between good pictures."""
    start = time.perf_counter()
    animals = {f"{i % 5}/{a.name}": a for i, a in enumerate(zoo())}
    for path, animal in animals.items():
        (folder / "zoo" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "zoo" / path).write_bytes(animal.data)
    store = run(folder / "zoo", folder / "out", Corners(), shard_rows=7, batch_size=3)
    rows = dict(zip(store.index["path"], store.read("features").numpy(), strict=True))
    for row in store.index.itertuples():
        animal = animals[row.path]
        if row.label != row.path[0] or animal.reason:
            raise AssertionError(f"{row.path} has the label {row.label}, or should not be here")
        error = np.abs(rows[row.path].reshape(4, 3) - np.array(animal.corners)).max()
        if error > animal.tolerance:
            raise AssertionError(f"{row.path}: corners differ by {error}")
    rejected = {p for p, a in animals.items() if a.reason}
    if set(store.rejects["path"]) != rejected or not store.rejects["reason"].all():
        raise AssertionError(f"rejects are {sorted(store.rejects['path'])}")
    return Result(
        "the picture zoo: formats, depths, colours, EXIF orientations 1 to 8, animations, damage, bombs",
        f"{len(animals)} files",
        f"{len(rows)} seen as a person sees them, {len(rejected)} listed with a reason; no label shifted",
        time.perf_counter() - start,
    )


class Corners(Fake):
    """A picture's four corners."""

    def prepare(self, image):
        return torch.tensor(corners_of(image), dtype=torch.float32).flatten()  # (12,)

    def compute(self, batch):
        return {"features": batch}


# ------------------------------------------------------------------------------------ the page


def page(results):
    """The results as a page of the book."""
    libraries = ", ".join(
        f"{n} {version(n)}" for n in ("torch", "torchvision", "pillow", "pyarrow", "safetensors")
    )
    lines = [
        "# What a feature store survives",
        "",
        "`make torture` tries it, and writes this page. Every trial ends by comparing the store, byte by",
        "byte, with that of a run that nothing disturbed.",
        "",
        "| what was done | how often | what came of it | seconds |",
        "|---|---|---|---:|",
        *(f"| {r.what} | {r.trials} | {r.outcome} | {r.seconds:.0f} |" for r in results),
        "",
        f"Last run on {datetime.date.today().isoformat()}: Python {platform.python_version()} on "
        f"{platform.system()}, {libraries}.",
        "",
    ]
    return "\n".join(lines)


def main():
    """Run everything and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["SING_CACHE_DIR"] = str(folder / "cache")
        photos = make_pictures(folder / "photos")
        trials = {
            "kills": lambda f: kills(photos, f, given.kills),
            "damage": lambda f: damage(photos, f, 100),
            "full-disk": lambda f: full_disk(photos, f, range(16_384, 262_144, 16_384)),
            "writers": lambda f: writers(photos, f, 20),
            "zoo": picture_zoo,
        }
        for name, trial in trials.items():
            (folder / name).mkdir()
            results.append(trial(folder / name))
            print(f"{results[-1].what}: {results[-1].trials}: {results[-1].outcome}", flush=True)
    given.page.write_text(page(results))
    print(f"written to {given.page}")


if __name__ == "__main__":
    main()
