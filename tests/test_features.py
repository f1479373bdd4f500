"""The feature store: aligned, resumable, checksummed, and clear about bad pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sing_utils import SingError
from sing_utils.features import FeatureStore, derive, extract, list_pictures, read_picture


class Fake:
    """Features that say which picture they come from: 6 colour means and corners."""

    def __init__(self, *, stop_at=None, name="fake"):
        self.identity = {"name": name, "weights": "0", "transform": "none"}
        self.calls, self.stop_at = 0, stop_at

    def prepare(self, image):
        small = np.asarray(image.resize((2, 2)), dtype=np.float32) / 255
        return torch.from_numpy(small)  # (2, 2, 3)

    def compute(self, batch):
        self.calls += 1
        if self.stop_at is not None and self.calls == self.stop_at:
            raise KeyboardInterrupt
        return {"features": torch.cat([batch.mean((1, 2)), batch[:, 0, 0]], 1)}  # (B, 6)

    def of(self, path):
        """What the store should hold for one file."""
        return self.compute(self.prepare(read_picture(path))[None])["features"][0]


def run(folder, out, extractor=None, **options):
    settings = {"batch_size": 2, "shard_rows": 4, "workers": 0, "progress": False} | options
    return extract(extractor or Fake(), folder, out, **settings)


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


@pytest.fixture
def photos(tmp_path, make_picture):
    """11 pictures: 3 shards of 4, 4 and 3."""
    for i in range(11):
        make_picture(
            tmp_path / "photos" / ("fit" if i % 3 else "evaluate") / f"c{i % 2}" / f"{i:02d}.png", seed=i
        )
    return tmp_path / "photos"


# ----------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("path", "label", "split"),
    [
        ("a.png", "", ""),
        ("cat/a.png", "cat", ""),
        ("train/a.png", "", "train"),
        ("val/cat/a.png", "cat", "val"),
        ("evaluate/n01440764/deep/a.png", "n01440764", "evaluate"),
        ("cat/train/a.png", "cat", ""),  # a split comes first or not at all
        ("cat/A.JPEG", "cat", ""),
    ],
)
def test_layouts(tmp_path, path, label, split):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 3)).save(tmp_path / path)
    (tmp_path / "notes.txt").write_text("no picture")
    assert list_pictures(tmp_path).to_dict("records") == [{"path": path, "label": label, "split": split}]


def test_pictures_are_sorted_whatever_the_disk_says(photos):
    paths = list_pictures(photos)["path"].tolist()
    assert paths == sorted(paths)
    assert len(paths) == 11


# --------------------------------------------------------------------------- alignment


def damage(folder, make_picture):
    """Among good pictures, every kind of difficult one. Returns the names of the unreadable."""
    for i in range(6):
        make_picture(folder / f"good{i}.png", seed=i)
    (folder / "a_empty.jpg").write_bytes(b"")
    (folder / "good2_text.png").write_text("this is no picture")
    whole = make_picture(folder / "good3_cut.jpg", seed=20, size=(64, 64)).read_bytes()
    (folder / "good3_cut.jpg").write_bytes(whole[: len(whole) // 2])
    noise = np.random.default_rng(30).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(noise, "CMYK").save(folder / "good4_cmyk.jpg")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(folder / "good4_16bit.png")
    palette = Image.fromarray(noise[..., :3]).quantize(8)
    palette.save(folder / "good5_palette.png", transparency=0)
    Image.fromarray(noise, "RGBA").save(folder / "good5_rgba.png")
    make_picture(folder / "z_gif.gif", seed=40)
    return {"a_empty.jpg", "good2_text.png", "good3_cut.jpg"}


def test_index_and_rows_stay_aligned_around_unreadable_pictures(tmp_path, make_picture):
    folder = tmp_path / "photos"
    bad = damage(folder, make_picture)
    store = run(folder, tmp_path / "out", shard_rows=5)
    x = store.read("features")
    assert set(store.rejects["path"]) == bad
    assert len(store) == len(store.index) == len(x) == 14 - 3
    assert not set(store.index["path"]) & bad
    for row, values in zip(store.index.itertuples(), x, strict=True):
        torch.testing.assert_close(values, Fake().of(folder / row.path), msg=row.path)
    reasons = dict(zip(store.rejects["path"], store.rejects["reason"], strict=True))
    assert "cannot identify" in reasons["a_empty.jpg"]
    assert "truncated" in reasons["good3_cut.jpg"]
    assert not any(str(tmp_path) in r for r in reasons.values())


def test_a_shard_without_any_readable_picture(tmp_path, make_picture):
    folder = tmp_path / "photos"
    for i in range(4):  # the first shard is all bad
        (folder / "x").mkdir(parents=True, exist_ok=True)
        (folder / "x" / f"a{i}.png").write_text("no")
    good = [make_picture(folder / "x" / f"b{i}.png", seed=i) for i in range(3)]
    store = run(folder, tmp_path / "out")
    assert [s["file"] for s in store.manifest["shards"]] == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    torch.testing.assert_close(store.read("features"), torch.stack([Fake().of(p) for p in good]))
    assert store.names == ["features"]


def test_index_holds_the_hash_of_each_picture(photos, tmp_path):
    import hashlib

    store = run(photos, tmp_path / "out")
    for row in store.index.itertuples():
        assert row.sha256 == hashlib.sha256((photos / row.path).read_bytes()).hexdigest()
    assert set(store.index["split"]) == {"fit", "evaluate"}
    assert set(store.index["label"]) == {"c0", "c1"}


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "x.png"))[0, :, 0], [0, 100, 255])


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = np.asarray(read_picture(tmp_path / "x.png"))
    assert upright.shape == (16, 8, 3)
    assert upright[:8].min() == 255  # the top half is white
    assert upright[8:].max() == 0


def test_workers_change_nothing(photos, tmp_path):
    run(photos, tmp_path / "a")
    run(photos, tmp_path / "b", workers=2, batch_size=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# ---------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_an_interrupted_run_resumes_to_the_same_bytes(photos, tmp_path, k):
    run(photos, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", Fake(stop_at=k))
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(SingError, match=r"holds no manifest.json.*run `sing extract` again"):
        FeatureStore.open(tmp_path / "out")
    second = Fake()
    run(photos, tmp_path / "out", second)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert second.calls == 6 - 2 * ((k - 1) // 2)  # two batches a shard; whole shards are kept


KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    import test_features

    class Killed(test_features.Fake):
        def compute(self, batch):
            if self.calls == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().compute(batch)

    test_features.run({photos!r}, {out!r}, Killed())
"""


def test_a_killed_process_resumes_to_the_same_bytes(photos, tmp_path):
    out = tmp_path / "out"
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), photos=str(photos), out=str(out))
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert {p.name for p in out.iterdir()} == {"shard-00000.safetensors", "shard-00001.safetensors"}
    second = Fake()
    run(photos, out, second)
    assert second.calls == 2
    run(photos, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_half_written_shard_is_done_again(photos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", Fake(stop_at=5))
    shard = tmp_path / "out" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    run(photos, tmp_path / "out")
    run(photos, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_failed_write_leaves_no_half_file(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SingError, match=r"cannot write .*shard-00000.*No space left on device"):
        run(photos, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_manifest_is_written_last(photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(photos, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    second = Fake()
    assert len(run(photos, tmp_path / "out", second)) == 11
    assert second.calls == 0


def test_a_finished_store_is_a_hit(photos, tmp_path):
    first = run(photos, tmp_path / "out")
    second = Fake()
    again = run(photos, tmp_path / "out", second)
    assert second.calls == 0
    assert torch.equal(first.read("features"), again.read("features"))


@pytest.mark.parametrize("change", ["dtype", "shard_rows", "model", "pictures"])
def test_a_store_of_something_else_is_refused(photos, tmp_path, make_picture, change):
    run(photos, tmp_path / "out")
    before = contents(tmp_path / "out")
    options = {"dtype": {"dtype": "float16"}, "shard_rows": {"shard_rows": 5}}.get(change, {})
    extractor = Fake(name="other") if change == "model" else Fake()
    if change == "pictures":
        make_picture(photos / "fit" / "c0" / "new.png", seed=99)
    with pytest.raises(
        SingError, match=r"holds an extraction of fake with other pictures.*choose another --out"
    ):
        run(photos, tmp_path / "out", extractor, **options)
    assert contents(tmp_path / "out") == before
    assert extractor.calls == 0


def test_shards_of_another_extraction_are_not_resumed(photos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", Fake(stop_at=5, name="other"))
    second = Fake()
    run(photos, tmp_path / "out", second)
    assert second.calls == 6


# ---------------------------------------------------------------------------- damage


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.write_bytes(b""),
        lambda p: flip(p, -1),
        lambda p: flip(p, 100),
        lambda p: p.unlink(),
    ],
    ids=["cut short", "empty", "last bit flipped", "bit flipped", "gone"],
)
@pytest.mark.parametrize("file", ["shard-00001.safetensors", "index.parquet"])
def test_damage_is_found_before_use(photos, tmp_path, spoil, file):
    run(photos, tmp_path / "out")
    spoil(tmp_path / "out" / file)
    message = rf"{file} has SHA-256 .*the file was changed or\s+cut short; delete it"
    extractor = Fake()
    with pytest.raises(SingError, match=message):
        run(photos, tmp_path / "out", extractor)
    assert extractor.calls == 0
    with pytest.raises(SingError, match=message):
        FeatureStore.open(tmp_path / "out").read("features")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.json is damaged"),
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ("null", "manifest.json is damaged"),
        ("{}", "manifest.json is damaged"),
        ('{"shards": 3}', "manifest.json is damaged"),
        ('{"format": 1, "shards": []}', "manifest.json is damaged"),
    ],
)
def test_a_damaged_manifest(photos, tmp_path, text, message):
    run(photos, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(text)
    for act in (lambda: FeatureStore.open(tmp_path / "out"), lambda: run(photos, tmp_path / "out")):
        with pytest.raises(SingError, match=message):
            act()


def edit_manifest(out, **values):
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | values))


def test_a_manifest_of_other_shards_or_of_another_format(photos, tmp_path):
    out = tmp_path / "out"
    shards = run(photos, out).manifest["shards"]
    edit_manifest(out, shards=[{**shards[0], "sha256": "0" * 64}, *shards[1:]])
    with pytest.raises(SingError, match="shard-00000.safetensors has SHA-256"):
        FeatureStore.open(out).read("features")
    edit_manifest(out, format=99)
    with pytest.raises(SingError, match="store format 99, expected 1"):
        FeatureStore.open(out)


def test_deleting_a_damaged_manifest_mends_the_store(photos, tmp_path):
    run(photos, tmp_path / "out")
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    extractor = Fake()
    run(photos, tmp_path / "out", extractor)
    assert extractor.calls == 0  # its shards are whole
    assert contents(tmp_path / "out") == whole


# ------------------------------------------------------------------- dtypes and derive


def test_reading_goes_through_the_stored_dtype_with_the_stated_error(photos, tmp_path):
    exact = run(photos, tmp_path / "f32").read("features")
    half = run(photos, tmp_path / "f16", dtype="float16").read("features")
    bytes_ = run(photos, tmp_path / "u8", dtype="uint8").read("features")
    assert exact.dtype == half.dtype == bytes_.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=2**-11, atol=1e-7)
    assert not torch.equal(half, exact)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 11)):  # one scale a column and shard
        span = exact[rows].amax(0) - exact[rows].amin(0)
        error = (bytes_[rows] - exact[rows]).abs()
        assert bool((error <= span / 255 / 2 * 1.001 + 1e-7).all())
        # The extremes of each column are exact.
        torch.testing.assert_close(bytes_[rows].amin(0), exact[rows].amin(0))
        torch.testing.assert_close(bytes_[rows].amax(0), exact[rows].amax(0))


def test_a_constant_column_survives_uint8(tmp_path):
    for i in range(3):
        Image.new("RGB", (4, 4), (51, 0, 255)).save(tmp_path / f"{i}.png")
    store = run(tmp_path, tmp_path / "out", dtype="uint8")
    got = store.read("features")
    torch.testing.assert_close(got, torch.tensor([[0.2, 0.0, 1.0, 0.2, 0.0, 1.0]]).repeat(3, 1))
    shard = load_file(tmp_path / "out" / "shard-00000.safetensors")
    assert bool((shard["features.scale"] > 0).all())  # no level came from a division by 0


def test_batches_are_shards_in_order(photos, tmp_path):
    store = run(photos, tmp_path / "out")
    assert [len(x) for x in store.batches("features")] == [4, 4, 3]
    assert torch.equal(torch.cat(list(store.batches("features"))), store.read("features"))
    with pytest.raises(SingError, match="holds features, not 'embeddings'"):
        store.read("embeddings")


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_derive_equals_extracting_again(photos, tmp_path, dtype):
    source = run(photos, tmp_path / "a")
    derived = derive([source], tmp_path / "b", dtype=dtype)
    direct = run(photos, tmp_path / "c", dtype=dtype)
    assert torch.equal(derived.read("features"), direct.read("features"))
    pd.testing.assert_frame_equal(derived.index, direct.index)


def test_derive_combines_stores_by_name(photos, tmp_path):
    a, b = run(photos, tmp_path / "a"), run(photos, tmp_path / "b", Fake(name="other"))
    got = derive(
        [a, b],
        tmp_path / "c",
        identity={"name": "sum"},
        compute=lambda given: {"z": given["fake"] + 2 * given["other"]},
    )
    torch.testing.assert_close(got.read("z"), 3 * a.read("features"))
    assert got.names == ["z"]
    with pytest.raises(SingError, match="holds a store already"):
        derive([a], tmp_path / "c")


def test_derive_refuses_stores_of_different_pictures(photos, tmp_path, make_picture):
    a = run(photos, tmp_path / "a")
    make_picture(photos / "fit" / "c0" / "new.png", seed=99)
    with pytest.raises(SingError, match="the stores hold different pictures"):
        derive([a, run(photos, tmp_path / "b")], tmp_path / "c")


# --------------------------------------------------------------------------- bad input


def test_no_readable_picture_leaves_nothing_behind_and_can_be_mended(tmp_path, make_picture):
    folder = tmp_path / "photos"
    for i in range(6):
        (folder / "c").mkdir(parents=True, exist_ok=True)
        (folder / "c" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(SingError, match=r"none of 6 pictures could be read.*c/0.jpg: UnidentifiedImageError"):
        run(folder, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    for i in range(6):
        make_picture(folder / "c" / f"{i}.jpg", seed=i)
    assert len(run(folder, tmp_path / "out")) == 6


def test_no_picture_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SingError, match="holds no picture, expected files ending in .bmp"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(SingError, match="none is not a folder"):
        run(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    extractor = Fake()
    with pytest.raises(SingError, match="cannot write to .*expected a writable folder"):
        run(photos, tmp_path / "file" / "out", extractor)
    assert extractor.calls == 0


def test_unknown_dtype(photos, tmp_path):
    with pytest.raises(SingError, match="dtype 'int4' is unknown, expected one of float32, float16, uint8"):
        run(photos, tmp_path / "out", dtype="int4")
    assert not (tmp_path / "out").exists()
