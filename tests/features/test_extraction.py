"""Extraction: resumable, content-addressed, and clear about whatever goes wrong.

That rows and index stay aligned around pictures that can't be read is in `test_torture`: the zoo.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torture
from fakes import Fake, contents, run
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from tars import shard

from sing_utils import SingError
from sing_utils.features import digests
from sing_utils.features.engine import local_engine
from sing_utils.features.extraction import extract_cached
from sing_utils.features.store import FeatureStore
from sing_utils.files import require_place, write_whole


@pytest.fixture
def whole(photos, tmp_path):
    """What an undisturbed run writes."""
    return contents(run(photos, tmp_path / "whole").path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_shard_without_any_readable_picture(tmp_path, make_picture):
    good = [make_picture(tmp_path / "x" / f"b{i}.png", seed=i) for i in range(3)]
    for i in range(4):  # the first shard is all bad
        (tmp_path / "x" / f"a{i}.png").write_text("no")
    store = run(tmp_path / "x", tmp_path / "out")
    assert len(store.manifest["shards"]) == 2
    torch.testing.assert_close(store.read("features"), torch.stack([Fake().of(p) for p in good]))
    assert store.names == ["features"]


def test_index_holds_the_hash_of_each_picture(photos, out):
    store = run(photos, out)
    for row in store.index.itertuples():
        assert row.sha256 == hashlib.sha256((photos / row.path).read_bytes()).hexdigest()
    assert set(store.index["split"]) == {"fit", "evaluate"}
    assert set(store.index["label"]) == {"c0", "c1"}


def test_workers_change_nothing(photos, out, whole):
    run(photos, out, workers=2)
    assert contents(out) == whole


# ---------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_an_interrupted_run_resumes_to_the_same_bytes(photos, out, whole, k):
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, Fake(stop_at=k))
    assert not (out / "manifest.json").exists()
    with pytest.raises(SingError, match=r"holds no manifest.json.*run `sing extract` again"):
        FeatureStore.open(out)
    second = Fake()
    run(photos, out, second)
    assert contents(out) == whole
    assert second.calls == 6 - 2 * ((k - 1) // 2)  # two batches a shard; whole shards are kept


def full_disk(monkeypatch, name):
    """The disk is full whenever a file of this name is synced."""
    real = os.fsync

    def fsync(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize(
    "name", ["begun", "shard-00000", "shard-00002", "index.parquet", "rejects.parquet", "manifest.json"]
)
def test_a_full_disk_is_said_and_leaves_what_can_be_resumed(photos, out, whole, monkeypatch, name):
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        with pytest.raises(SingError, match=rf"cannot write .*{name}.*No space left on device.*resumed"):
            run(photos, out)
    assert not [p for p in contents(out) if p.startswith(".") or p == "manifest.json"]
    second = Fake()
    run(photos, out, second)
    assert second.calls == {"begun": 6, "shard-00000": 6, "shard-00002": 2}.get(name, 0)
    assert contents(out) == whole


def test_files_are_synced_before_they_get_their_names_and_folders_after(photos, tmp_path, monkeypatch):
    events = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda d: (events.append(("sync", os.readlink(f"/proc/self/fd/{d}"))), sync(d))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("move", str(b))), move(a, b)))
    run(photos, tmp_path / "out")
    moves = [i for i, e in enumerate(events) if e[0] == "move"]
    for i in moves:
        path = Path(events[i][1])
        assert events[i - 1] == ("sync", str(path.with_name(f".{path.name}.{os.getpid()}.tmp")))
        assert ("sync", str(path.parent)) in events[i : i + 3]
    assert Path(events[moves[-1]][1]).name == "manifest.json"  # written last
    assert len(moves) == 7


@pytest.mark.parametrize(("left", "finished"), [(".shard-9.safetensors.tmp", False), ("begun.json", True)])
def test_what_a_killed_process_left_is_removed(photos, out, whole, left, finished):
    """Half written, or after its very last write."""
    if finished:
        run(photos, out)
    out.mkdir(exist_ok=True)
    (out / left).write_text("{}")
    run(photos, out)
    assert contents(out) == whole


def test_a_finished_store_is_a_hit_also_where_nothing_can_be_written(photos, out, monkeypatch):
    first = run(photos, out)
    monkeypatch.setattr("sing_utils.features.extraction.locked", lambda *_, **__: pytest.fail("it writes"))
    second = Fake()
    again = run(photos, out, second)
    assert second.calls == 0
    assert torch.equal(first.read("features"), again.read("features"))


CHANGES = {
    "dtype": "dtype",
    "shard_rows": "shard_rows",
    "weights": "extractor",
    "transform": "extractor",
    "library": "extractor",
    "a new picture": "list of pictures, content of pictures",
    "a renamed class": "list of pictures, content of pictures",
    "another picture under the same name": "content of pictures",
    "torch": "libraries",
    "precision": "compute",
    "decoding": "decoding",
}


def changed(change, photos, make_picture, monkeypatch):
    """Change one thing; returns the model and the options of the next extraction."""
    some = photos / "fit" / "c0" / "02.png"
    if change == "a new picture":
        make_picture(photos / "fit" / "c0" / "new.png", seed=99)
    if change == "a renamed class":
        (photos / "fit" / "c0").rename(photos / "fit" / "c2")
    if change == "another picture under the same name":
        stat = some.stat()
        make_picture(some, seed=99)
        os.utime(some, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `cp -p` does
    if change == "torch":
        monkeypatch.setattr("sing_utils.features.extraction.version", lambda name: "9.9")
    if change == "decoding":
        monkeypatch.setattr("sing_utils.features.extraction.DECODING", 99)
    identity = {change: "other"} if change in ("weights", "transform", "library") else {}
    options = {"dtype": {"dtype": "float16"}, "shard_rows": {"shard_rows": 5}}.get(change, {})
    return Fake(**identity), options | ({"precision": "bfloat16"} if change == "precision" else {})


@pytest.mark.parametrize("change", CHANGES)
def test_something_else_is_refused_and_in_a_cache_another_folder(
    photos, tmp_path, out, make_picture, monkeypatch, change
):
    settings = {"batch_size": 2, "shard_rows": 4, "workers": 0, "progress": False}
    first = extract_cached(Fake(), photos, tmp_path / "root", **settings)
    run(photos, out)
    before = contents(out), contents(first.path)
    extractor, options = changed(change, photos, make_picture, monkeypatch)
    message = rf"of fake with other pictures.*\(another {CHANGES[change]}\).*choose another --out"
    with pytest.raises(SingError, match=message):
        run(photos, out, extractor, **options)
    assert extractor.calls == 0
    second = extract_cached(extractor, photos, tmp_path / "root", **settings | options)
    assert extractor.calls > 0
    assert second.path != first.path
    assert (contents(out), contents(first.path)) == before
    again = Fake(**{k: v for k, v in extractor.identity.items() if k != "name"})
    assert extract_cached(again, photos, tmp_path / "root", **settings | options).path == second.path
    assert again.calls == 0


def test_names_of_cached_stores_are_safe(photos, tmp_path):
    names = ["../../etc/passwd", "hf:org/model@main", "..", "x" * 300]
    for name in names:
        store = extract_cached(Fake(name=name), photos, tmp_path / "root", workers=0, progress=False)
        assert store.path.parent == tmp_path / "root"
        assert store.path.name.rpartition("-")[2] == store.manifest["key"][:16]
    assert len(list((tmp_path / "root").iterdir())) == len(names)


def test_a_hit_reads_no_picture_again(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sing_utils.features.digests._SETTLED", 0.0)
    run(photos, tmp_path / "out")
    run(photos, tmp_path / "out")  # remembers the store's own files
    opened = []
    real = digests.digest_file
    monkeypatch.setattr(digests, "digest_file", lambda f: (opened.append(f), real(f))[1])
    run(photos, tmp_path / "out")
    assert opened == []


def test_files_that_have_just_changed_are_not_remembered(tmp_path, monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr(digests, "_stat", lambda file: (1, now, now))  # a clock with coarse ticks
    for data in (b"1", b"2"):
        (tmp_path / "a").write_bytes(data)
        assert list(digests.digest_files([tmp_path / "a"])) == [hashlib.sha256(data).digest()]


def test_a_file_that_changed_since_it_was_remembered_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED", -60.0)  # remembered at once
    for ns, data in enumerate((b"1", b"2")):
        (tmp_path / "a").write_bytes(data)
        os.utime(tmp_path / "a", ns=(ns, ns))
        assert list(digests.digest_files([tmp_path / "a"])) == [hashlib.sha256(data).digest()]


@pytest.mark.parametrize("spoil", ["text", "a folder", "read only"])
def test_without_its_memory_everything_works(photos, tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("SING_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    if spoil == "text":
        (tmp_path / "cache" / "digests.sqlite").write_text("no database" * 100)
    elif spoil == "a folder":
        (tmp_path / "cache" / "digests.sqlite").mkdir()
    else:
        monkeypatch.setenv("SING_CACHE_DIR", "/proc/nowhere")
    assert len(run(photos, tmp_path / "out")) == 11
    assert len(run(photos, tmp_path / "out")) == 11


def test_shards_of_another_extraction_are_not_resumed(photos, out):
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, Fake(stop_at=5, name="other"))
    before = contents(out)
    with pytest.raises(SingError, match="holds the beginning of another extraction"):
        run(photos, out, Fake())
    assert contents(out) == before


# ------------------------------------------------------------------- pictures that change meanwhile


@pytest.mark.parametrize("change", ["rewritten", "deleted", "rewritten and back"])
def test_a_picture_that_changes_while_it_is_read_is_an_error(photos, out, whole, make_picture, change):
    victim = photos / "fit" / "c0" / "10.png"  # the last row
    before = victim.read_bytes()

    class Meddler(Fake):
        def compute(self, batch):
            if self.calls == 0:
                victim.unlink() if change == "deleted" else make_picture(victim, seed=99)
            if self.calls == 5 and change == "rewritten and back":
                victim.write_bytes(before)
            return super().compute(batch)

    with pytest.raises(SingError, match=r"1 pictures of .*, such as fit/c0/10.png, changed or could not"):
        run(photos, out, Meddler())
    assert not (out / "manifest.json").exists()
    victim.write_bytes(before)
    run(photos, out)
    assert contents(out) == whole


def test_a_tar_that_changes_while_it_is_read_is_an_error(tmp_path):
    tar = shard(tmp_path / "tars", 0)

    class Meddler(Fake):
        def compute(self, batch):
            if self.calls == 0:
                data = bytearray(tar.read_bytes())
                data[-1] ^= 1  # behind the last picture: none of them is another one
                tar.write_bytes(data)
            return super().compute(batch)

    with pytest.raises(SingError, match=r"4 pictures of .* changed or could not be read while"):
        run(tar, tmp_path / "out", Meddler())


# ------------------------------------------------------------------------- damage is mended


@pytest.mark.parametrize("at", [0, 100, -1, "cut", "empty", "gone"])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("file", ["shard-00001.safetensors", "index.parquet", "rejects.parquet"])
def test_a_damaged_file_is_found_and_made_anew(photos, out, whole, at, finished, file):
    run(photos, out)
    path, data = out / file, bytearray(whole[file])
    if at == "gone":
        path.unlink()
    else:
        if isinstance(at, int):
            data[at] ^= 1
        path.write_bytes({"cut": data[:-3], "empty": b""}.get(at, data))
    if file != "rejects.parquet":  # which no reader of features needs
        with pytest.raises(SingError, match=rf"{file} has SHA-256 .*run `sing extract` again"):
            FeatureStore.open(out).read("features")
    if not finished:
        (out / "manifest.json").unlink()
    extractor = Fake()
    run(photos, out, extractor)
    assert extractor.calls == (2 if "shard" in file else 0)  # one shard is two batches
    assert contents(out) == whole


# ----------------------------------------------------------------------------------- batches


def of_the_batch(x, batch):
    """Results that depend on what else is in a batch, as a GPU's last bits do."""
    return x + 1e-3 * len(batch)


def test_a_begun_store_keeps_its_batch_size(photos, out, tmp_path):
    model = partial(Fake, change=of_the_batch)
    whole = contents(run(photos, tmp_path / "whole", model(), batch_size=3).path)
    with pytest.raises(KeyboardInterrupt):
        run(photos, out, model(stop_at=4), batch_size=3)
    run(photos, out, model(), batch_size=None)
    assert contents(out) == whole
    path = out / "shard-00001.safetensors"  # also when a finished one is mended
    path.write_bytes(path.read_bytes()[:-1])
    run(photos, out, model(), batch_size=None)
    assert contents(out) == whole


def shuffled(extractor, source, batches):
    results = list(local_engine(extractor, source, batches, workers=0))
    order = np.random.default_rng(0).permutation(len(results))
    yield from (results[i] for i in order)


def test_results_may_come_in_any_order_and_twice(photos, tmp_path, whole):
    def twice(*arguments):
        for result in shuffled(*arguments):
            yield result
            yield result

    for name, engine in (("any", shuffled), ("twice", twice)):
        assert contents(run(photos, tmp_path / name, engine=engine).path) == whole


def test_an_engine_that_loses_a_batch_is_found_out(photos, out, whole):
    def loses(*arguments):
        yield from list(shuffled(*arguments))[1:]

    with pytest.raises(SingError, match="an engine ended without all batches of shard"):
        run(photos, out, engine=loses)
    run(photos, out)
    assert contents(out) == whole


def test_shards_are_written_the_moment_they_are_whole(photos, tmp_path):
    seen = []

    def watched(*arguments):
        for result in local_engine(*arguments, workers=0):
            yield result
            seen.append(len(list((tmp_path / "out").glob("shard-*"))))

    run(photos, tmp_path / "out", engine=watched)
    assert seen == [0, 1, 1, 2, 2, 3]


def test_what_does_not_fit_into_memory_is_halved(photos, tmp_path):
    sizes = []

    def small(x, batch, most=1):
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return x

    store = run(photos, tmp_path / "out", Fake(change=small), batch_size=4)
    assert torch.equal(store.read("features"), run(photos, tmp_path / "whole").read("features"))
    assert sizes == [1] * 11
    with pytest.raises(SingError, match="fake does not fit into the GPU's memory even with one picture"):
        run(photos, tmp_path / "no", Fake(change=partial(small, most=0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, _: x[1:], r"gave features of shape \(1, 6\) for 2 pictures, expected \(2, d\)"),
        (lambda x, _: x[:, 0], r"gave features of shape \(2,\)"),
        (lambda x, _: x / 0, "gave features that are not finite.*precision float32"),
    ],
)
def test_a_model_that_gives_something_else(photos, tmp_path, change, message):
    with pytest.raises(SingError, match=message):
        run(photos, tmp_path / "out", Fake(change=change))


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (OSError(28, "No space left"), SingError, r"cannot write .*a.bin \(No space left\)"),
        (SafetensorError("I/O error"), SingError, r"cannot write .*a.bin \(I/O error\)"),
        (KeyError("x"), KeyError, "x"),
    ],
)
def test_a_file_is_whole_or_as_it_was(tmp_path, error, raised, said):
    file = tmp_path / "a.bin"
    write_whole(file, lambda path: path.write_bytes(b"old"))

    def fail(path):
        path.write_bytes(b"ne")
        raise error

    with pytest.raises(raised, match=said):
        write_whole(file, fail)
    assert contents(tmp_path) == {"a.bin": b"old"}


@pytest.mark.skipif(sys.platform == "win32", reason="files have other rights there")
@pytest.mark.parametrize(
    "save", [lambda f: save_file({"a": torch.ones(2)}, f), lambda f: f.write_bytes(b"1")]
)
def test_what_libraries_save_is_synced_and_as_readable_as_any_file(tmp_path, monkeypatch, save):
    """safetensors puts a new file in the place of the one that it is given."""
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (synced.append(os.fstat(f).st_ino), fsync(f))[1])
    write_whole(tmp_path / "a", save)
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "a").stat().st_ino in synced


@pytest.mark.parametrize("out", ["", "no/file", "file/below"])
def test_a_place_is_a_file_in_a_folder_that_is_there(tmp_path, out):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SingError, match="existing folder"):
        require_place(tmp_path / out)
    require_place(tmp_path / "file", size=3 << 20)
    assert contents(tmp_path) == {"file": b"kept"}


class Deadly(Fake):
    def prepare(self, image):
        os._exit(3)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        ),
        RuntimeError("unable to write to file </torch_1_2_3>"),
        RuntimeError("received 0 items of ancdata"),
        OSError(24, "Too many open files"),
        OSError(38, "Function not implemented"),
    ],
)
@pytest.mark.parametrize("worker", [False, True])
def test_memory_that_processes_share_and_lack_is_said(photos, tmp_path, monkeypatch, error, worker):
    def fail(_):
        if worker:  # as the loader hands on what a worker raised
            text = f"Caught {type(error).__name__} in DataLoader worker process 0.\nTraceback:\n  File x\n"
            raise type(error)(f"{text}{type(error).__name__}: {error}")
        raise error

    monkeypatch.setattr("sing_utils.features.engine.DataLoader.__iter__", fail)
    with pytest.raises(SingError, match=r"ended \([^)].*/dev/shm.*--workers") as said:
        run(photos, tmp_path / "out", workers=1)
    assert str(error)[-20:] in str(said.value)
    assert "Traceback" not in str(said.value)


def test_another_error_of_a_worker_is_not_said_to_be_of_memory(photos, tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("sing_utils.features.engine.DataLoader.__iter__", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run(photos, tmp_path / "out", workers=1)


def test_a_decoding_process_that_dies_is_said(photos, tmp_path):
    with pytest.raises(SingError, match=r"a process that decodes pictures ended.*fewer --workers"):
        run(photos, tmp_path / "out", Deadly(), workers=1)


def test_sixteen_bit_products_are_used_and_recorded(photos, tmp_path):
    model = partial(Fake, change=lambda _, batch: batch.flatten(1) @ torch.full((12, 3), 1 / 3))
    exact = run(photos, tmp_path / "a", model()).read("features")
    store = run(photos, tmp_path / "b", model(), precision="bfloat16")
    assert store.manifest["made_of"]["compute"] == {"device": "cpu", "precision": "bfloat16"}
    error = (store.read("features") - exact).abs().max() / exact.abs().max()
    assert 0 < error < 2**-7


# ------------------------------------------------------------------------------- two processes


def test_of_two_processes_one_waits_and_finds_it_finished(photos, out, whole, capsys):
    slow = Fake(change=lambda x, _: time.sleep(0.2) or x)
    child = torture.fork(lambda: run(photos, out, slow))
    late = time.monotonic() + 60
    while not (out / "begun.json").exists() and time.monotonic() < late:
        time.sleep(0.01)
    second = Fake()
    assert len(run(photos, out, second)) == 11
    assert torture.ended(child)
    assert second.calls == 0
    assert "is being written by another process: waiting for it." in capsys.readouterr().err
    assert contents(out) == whole
    assert not (out / ".lock").exists()


# --------------------------------------------------------------------------- bad input


def test_no_readable_picture_leaves_nothing_behind_and_can_be_mended(tmp_path, out, make_picture):
    pictures = [make_picture(tmp_path / "p" / "c" / f"{i}.jpg", seed=i) for i in range(6)]
    good = [p.read_bytes() for p in pictures]
    for p in pictures:
        p.write_bytes(b"")
    with pytest.raises(SingError, match=r"none of 6 pictures could be read.*c/0.jpg: the file is empty"):
        run(tmp_path / "p", out)
    assert list(out.iterdir()) == []
    for p, data in zip(pictures, good, strict=True):
        p.write_bytes(data)
    assert len(run(tmp_path / "p", out)) == 6


def test_a_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    extractor = Fake()
    with pytest.raises(SingError, match="cannot write to .*expected a writable folder"):
        run(photos, tmp_path / "file" / "out", extractor)
    assert extractor.calls == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype 'int4' is unknown, expected one of float32, float16, uint8"),
        ({"precision": "half"}, "precision 'half' is unknown, expected auto, float32"),
        ({"source": "no/such/folder"}, "is not a folder"),
    ],
)
def test_bad_input_writes_nothing(photos, out, options, message):
    with pytest.raises(SingError, match=message):
        run(**{"source": photos, "out": out} | options)
    assert not out.exists()


# --------------------------------------------------------- what is found while pictures are extracted


def test_features_beyond_float16_are_refused_at_the_first_shard(photos, out):
    large = Fake(change=lambda x, _: 1e6 * x)  # float16 goes up to 65504
    with pytest.raises(SingError, match="float16 can't hold"):
        run(photos, out, large, dtype="float16")
    assert contents(out) == {}
    assert run(photos, out, large).read("features").max() > 65504  # other settings may begin there


class Refusing(Fake):
    def prepare(self, image):
        raise SingError("one sentence, and how to mend it.")


class Growing(Fake):
    def prepare(self, image):
        return torch.zeros(3, *image.size)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("extractor", "told"), [(Refusing(), "^one sentence"), (Growing(), "^the model's")])
def test_a_workers_error_is_one_sentence(tmp_path, workers, extractor, told):
    (tmp_path / "p").mkdir()
    for i in (8, 9):
        Image.new("RGB", (8, i)).save(tmp_path / "p" / f"{i}.png")
    with pytest.raises(SingError, match=told) as error:
        run(tmp_path / "p", tmp_path / "out", extractor, workers=workers)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    "error", [KeyError("a"), TypeError("b"), IndexError(), AttributeError("d"), ValueError()]
)
def test_a_transform_that_fails_is_the_pictures_reason(tmp_path, error):
    class Failing(Fake):
        def prepare(self, image):
            if image.width == 9:
                raise error
            return super().prepare(image)

    for i in (8, 9):
        Image.new("RGB", (i, 8)).save(tmp_path / f"{i}.png")
    store = run(tmp_path, tmp_path / "out", Failing())
    assert store.index["path"].tolist() == ["8.png"]
    assert type(error).__name__ in store.rejects["reason"].iloc[0]
