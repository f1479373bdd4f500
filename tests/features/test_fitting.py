"""Fitting on stores: the same map as on the same rows in memory, whoever sums the shards."""

from __future__ import annotations

import pickle
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sing_utils import SingError, Translator, TranslatorFitter
from sing_utils.features.extraction import extract
from sing_utils.features.fitting import Shard, fit_stores, gram_of_shards, grams_of_shard
from sing_utils.features.store import FeatureStore
from sing_utils.models.encoders import judge_of_stores, load_encoder
from sing_utils.models.judges import Judge, is_tower_of

M, N, ROWS = 6, 3, 47


class Linear:
    """An extractor whose features are a fixed random linear map of a picture's pixels."""

    def __init__(self, name, width, *, seed, towers=("features",)):
        g = torch.Generator().manual_seed(seed)
        self.identity = {"name": name, "seed": str(seed)}
        self.maps = {t: torch.randn(12, width, generator=g) for t in towers}

    def prepare(self, image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32).copy()).flatten() / 255

    def compute(self, batch):
        return {t: batch @ a for t, a in self.maps.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 2, 2, 3), dtype=np.uint8)
    for i, p in enumerate(pixels):
        Image.fromarray(p).save(folder / f"{i:02d}.png")
    return folder


def store(extractor, pictures, out, shard_rows=10):
    return extract(extractor, pictures, out, shard_rows=shard_rows, workers=0, progress=False)


@pytest.fixture(scope="module")
def stores(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    features = store(Linear("net", M, seed=1), pictures, folder / "f")
    return features, store(Linear("clip", N, seed=2, towers=("clip",)), pictures, folder / "z")


def test_it_is_the_fit_in_memory_on_the_same_rows(stores):
    features, targets = stores
    T = fit_stores(features, targets, held_out=0.3, seed=5)
    expected = Translator.fit(features.read("features"), targets.read("clip"), held_out=0.3, seed=5)
    torch.testing.assert_close(T.weight, expected.weight, rtol=1e-4, atol=1e-5)
    assert T.weight.dtype == torch.float32
    a, b = T.report, expected.report
    assert (a.n_fit, a.n_held_out) == (b.n_fit, b.n_held_out) == (33, 14)
    assert a.ridge == pytest.approx(b.ridge, rel=1e-9)
    assert a.held_out_cosine == pytest.approx(b.held_out_cosine, abs=1e-6)
    assert a.held_out_r2 == pytest.approx(b.held_out_r2, abs=1e-6)
    assert a.held_out_r2 < 0.95  # 12 pixels are not seen through 6 features: the test can fail
    assert (a.method, a.held_out, a.seed, a.loss) == ("ridge", 0.3, 5, "mse")
    assert T.meta == {"classifier": "net", "encoder": "clip"}


def test_some_rows_only(stores):
    features, targets = stores
    rows = np.arange(ROWS) % 3 > 0
    T = fit_stores(features, targets, rows=rows, held_out=0.2)
    f, z = features.read("features")[rows], targets.read("clip")[rows]
    torch.testing.assert_close(T.weight, Translator.fit(f, z, held_out=0.2).weight, rtol=1e-4, atol=1e-5)
    assert T.report.n_fit + T.report.n_held_out == rows.sum()
    everything = fit_stores(features, targets, held_out=0.2)
    assert not torch.allclose(everything.weight, T.weight, atol=1e-3)


@pytest.mark.parametrize("shard_rows", [1, 7, 10, 100])
def test_the_targets_shards_may_be_of_another_size(stores, pictures, tmp_path, shard_rows):
    features, targets = stores
    other = store(Linear("clip", N, seed=2, towers=("clip",)), pictures, tmp_path / "z", shard_rows)
    assert len(other.manifest["shards"]) == -(-ROWS // shard_rows)
    assert torch.equal(fit_stores(features, other).weight, fit_stores(features, targets).weight)


def test_pictures_that_could_not_be_read_shift_nothing(tmp_path, pictures):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    for i in (3, *range(20, 30)):
        (folder / f"{i:02d}.png").write_bytes(b"junk")
    features = store(Linear("net", M, seed=1), folder, tmp_path / "f")  # its third shard has no row
    targets = store(Linear("clip", N, seed=2, towers=("clip",)), folder, tmp_path / "z", 8)
    T = fit_stores(features, targets)
    expected = Translator.fit(features.read("features"), targets.read("clip"))
    assert T.report.n_fit + T.report.n_held_out == ROWS - 11
    torch.testing.assert_close(T.weight, expected.weight, rtol=1e-4, atol=1e-5)


def test_shards_summed_elsewhere_and_merged_in_order_give_the_same_bits(stores):
    features, targets = stores
    seen = []

    def elsewhere(function, shards):
        """As a cluster does: everything travels as bytes, results come back in order."""
        for shard in shards:
            seen.append(len(shard.f))
            yield pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(shard)))

    T = fit_stores(features, targets, mapper=elsewhere)
    local = fit_stores(features, targets)
    assert seen == [10, 10, 10, 10, 7] * 2
    assert torch.equal(T.weight, local.weight)
    assert T.report == local.report


def test_a_shard_by_hand():
    f, z = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[3.0], [4.0], [5.0]])
    fit, held = grams_of_shard(Shard(f, z, torch.tensor([False, True, False])))
    assert (fit.n_rows, float(fit.ff), float(fit.fz), float(fit.zz)) == (2, 17.0, 23.0, 34.0)
    assert (held.n_rows, float(held.ff), float(held.fz), float(held.zz)) == (1, 4.0, 8.0, 16.0)


def test_memory_holds_one_shard_at_a_time(stores, monkeypatch):
    features, targets = stores
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("read a whole store"))
    sizes = []
    update = TranslatorFitter.update
    monkeypatch.setattr(
        TranslatorFitter, "update", lambda s, f, z: (sizes.append(len(f)), update(s, f, z))[1]
    )
    fit_stores(features, targets)
    assert max(sizes) <= 10


def test_no_classifier_is_fitted_to_its_own_tower(pictures, tmp_path):
    """The embedded encoder's three towers: the classifier's own is left out, and not even read."""
    encoder = load_encoder("embedded")
    towers = store(Linear("embedded", encoder.dim, seed=3, towers=encoder.towers), pictures, tmp_path / "z")
    own = encoder.towers[0]
    features = store(Linear(own, M, seed=1), pictures, tmp_path / "f")
    z = encoder.judge_of(own).targets(towers)
    expected = Translator.fit(features.read("features"), z)
    for judge in (encoder, encoder.judge_of(own)):
        T = fit_stores(features, towers, encoder=judge)
        torch.testing.assert_close(T.weight, expected.weight, rtol=1e-4, atol=1e-5)
        assert T.meta["left out"] == own
    with pytest.raises(SingError, match="holds efficientnet_lite0, .*expected one tensor: say which encoder"):
        fit_stores(features, towers)


EMBEDDED = Path(__file__).parents[2] / "data" / "embedded" / "features"


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Embeddings of the embedded encoder's towers of 64 photographs."""
    whole, index = FeatureStore.open(EMBEDDED / "embedded"), shown(64)
    z = {name: whole.read(name)[:64] for name in whole.names}
    return FeatureStore.from_arrays(tmp_path_factory.mktemp("z"), z, index, name="embedded")


def shown(n):
    return FeatureStore.open(EMBEDDED / "embedded").index[:n].astype(str)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f,
        lambda f: f.half().float(),
        lambda f: 3 * f / f.norm(dim=1, keepdim=True),
        lambda f: f + 0.2 * f.std() * f.flip(0).sign(),  # changed a little
    ],
)
def test_a_towers_features_are_known_without_its_name(towers, tmp_path, change):
    name = "efficientnet_lite1"
    f = change(FeatureStore.open(EMBEDDED / name).read("features")[:64])
    mine = FeatureStore.from_arrays(tmp_path, f, shown(64), name="Mine")
    judge = judge_of_stores(load_encoder("embedded"), mine, towers)
    assert (judge.left_out, judge.encoder.towers) == ((name,), ("efficientnet_lite0", "efficientnet_lite2"))
    assert fit_stores(mine, towers, encoder=load_encoder("embedded")).meta["left out"] == name
    assert "which network" in mine.unsaid


@pytest.mark.parametrize("change", [lambda f: f.flip(1), lambda f: f[:, :300], lambda f: f.roll(1, 0)])
def test_other_features_are_judged_by_all_towers(towers, tmp_path, change):
    f = change(FeatureStore.open(EMBEDDED / "efficientnet_lite1").read("features")[:64])
    mine = FeatureStore.from_arrays(tmp_path, f, shown(64), name="Mine")
    assert judge_of_stores(load_encoder("embedded"), mine, towers).left_out == ()


def test_an_encoders_own_embeddings_are_not_judged_by_it(tmp_path, towers):
    """A head on an encoder's image features, as in a linear probe."""
    z = towers.read("efficientnet_lite0")
    clip = FeatureStore.from_arrays(tmp_path / "z", {"clip": z}, shown(64), name="clip")
    encoder = SimpleNamespace(name="clip", towers=("clip",))
    encoder.own_towers = lambda identity: tuple(t for t in encoder.towers if is_tower_of(t, identity))
    encoder.judge_of = lambda identity: Judge(identity, encoder)
    for x, own in ((2 * z, True), (z.roll(1, 0), False)):
        mine = FeatureStore.from_arrays(tmp_path / f"{own}", x, shown(64), name="Mine")
        with pytest.raises(SingError, match="is the judged") if own else nullcontext():
            judge_of_stores(encoder, mine, clip)


def test_stores_of_different_pictures_are_refused(stores, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    (folder / "00.png").unlink()
    other = store(Linear("clip", N, seed=2), folder, tmp_path / "z")
    with pytest.raises(SingError, match="hold different pictures"):
        fit_stores(stores[0], other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": np.arange(ROWS) == 4}, "1 of 47 rows are to be used, expected at least 2"),
        ({"rows": np.ones(ROWS - 1)}, "46 of 46 rows .* of the 47 of"),
        ({"held_out": 1.5}, "held_out is 1.5"),
        ({"ridges": []}, r"ridges are \[\]"),
    ],
)
def test_bad_fits(stores, options, message):
    with pytest.raises(SingError, match=message):
        fit_stores(*stores, **options)


def test_the_wrong_way_round_and_no_shard_are_refused(stores):
    with pytest.raises(SingError, match="not 'features': extract that first"):
        fit_stores(stores[1], stores[0])
    with pytest.raises(SingError, match="got no shard"):
        gram_of_shards([])
