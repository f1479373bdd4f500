"""The feature store: its manifest, and three dtypes. Damage of its other files is in `test_extraction`."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from fakes import Fake, contents, run
from PIL import Image
from safetensors.torch import load_file

from sing_utils import SingError
from sing_utils.features.store import FeatureStore

# ---------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"shards": 3}', '{"format": 1, "shards": []}']
)
def test_a_damaged_manifest(photos, tmp_path, text):
    run(photos, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(text)
    for act in (lambda: FeatureStore.open(tmp_path / "out"), lambda: run(photos, tmp_path / "out")):
        with pytest.raises(SingError, match="manifest.json is damaged"):
            act()  # whose it is, nobody can say any more


def test_a_manifest_of_other_shards_or_of_another_format(photos, tmp_path):
    out = tmp_path / "out"
    manifest = run(photos, out).manifest
    first, *others = manifest["shards"]
    changed = manifest | {"shards": [{**first, "sha256": "0" * 64}, *others]}
    (out / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(SingError, match="shard-00000.safetensors has SHA-256"):
        FeatureStore.open(out).read("features")
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
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


# ------------------------------------------------------------------------------- dtypes


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
def test_packing_a_store_again_equals_extracting_again(photos, tmp_path, dtype):
    source = run(photos, tmp_path / "a")
    said = source.manifest["extractor"]
    options = {"name": "fake", "dtype": dtype, "shard_rows": 4, "identity": said}
    packed = FeatureStore.from_arrays(tmp_path / "b", source.read("features"), source.index, **options)
    direct = run(photos, tmp_path / "c", dtype=dtype)
    assert torch.equal(packed.read("features"), direct.read("features"))
    pd.testing.assert_frame_equal(packed.index, direct.index)
    assert packed.network == said["weights"]
    with pytest.raises(SingError, match="holds a store already"):
        FeatureStore.from_arrays(tmp_path / "b", source.read("features"), source.index, **options)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[:, ::2], lambda x: x.numpy().T])
def test_arrays_may_be_views(tmp_path, view, dtype):
    x = view(torch.arange(24.0).reshape(4, 6))
    rows = pd.DataFrame({"path": range(len(x))})
    store = FeatureStore.from_arrays(tmp_path, x, rows, name="Mine", dtype=dtype)
    assert torch.allclose(store.read("features"), torch.as_tensor(x), atol=0.1)
