"""Pictures from embeddings: shared noise, restored norms, exact search, and clear refusals.

Karlo's weights are not to be had here: a randomly initialised pipeline of its classes stands in.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import UnCLIPImageVariationPipeline
from PIL import Image

from sing_utils import SingError, angle
from sing_utils.execute.rehearsal import build_tiny_karlo
from sing_utils.features.store import FeatureStore
from sing_utils.method.scores import pairwise_angle
from sing_utils.models.encoders import load_encoder
from sing_utils.pictures.base import MINI_WEIGHTS, restore_norm
from sing_utils.pictures.by_name import load_pictures
from sing_utils.pictures.karlo import Karlo
from sing_utils.pictures.mini import MiniUnCLIP
from sing_utils.pictures.nearest import NearestPhotos

DIM = 32
ROUNDING = 4  # of 255 levels; another picture differs by tens


@pytest.fixture(scope="module")
def karlo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("karlo")
    build_tiny_karlo(folder, dim=DIM)
    return folder


@pytest.fixture(scope="module")
def karlo(karlo_folder):
    return Karlo.load(str(karlo_folder), progress=False, steps=3, super_resolution_steps=2)


@pytest.fixture(scope="module")
def mini():
    return MiniUnCLIP.load(steps=3, batch_size=4)  # so that some calls take two


@pytest.fixture(scope="module", params=["mini", "karlo"])
def decoder(request):
    """Each generative way, with few steps."""
    return request.getfixturevalue(request.param)


def embeddings(count, dim, *, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=g), dim=-1)


def difference(a, b):
    """Largest difference of two pictures, of 255."""
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


# ------------------------------------------------------------------------ norm restoration


def test_norms_are_those_of_the_originals():
    z, z_tilde = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [6.0, 8.0]])
    restored = restore_norm(z_tilde, z)
    torch.testing.assert_close(restored, torch.tensor([[0.0, 5.0], [1.2, 1.6]]))
    assert float(angle(restored, z_tilde).max()) < 1e-6  # no angle moves
    assert isinstance(restore_norm(z_tilde.numpy(), z.numpy()), np.ndarray)
    with pytest.raises(SingError, match="z_tilde holds a zero vector"):
        restore_norm(torch.zeros(1, 2), torch.ones(1, 2))


def test_the_norm_reaches_the_picture(decoder):
    """A decoder reads the length, too; restoring it undoes what a longer vector did."""
    z = embeddings(1, decoder.dim)
    plain, longer = decoder(z), decoder(3 * z)
    assert difference(plain[0], longer[0]) > 2 * ROUNDING
    assert difference(plain[0], decoder(restore_norm(3 * z, z))[0]) <= ROUNDING


# -------------------------------------------------------------------------- noise and seeds


def test_embedding_and_seed_decide_and_nothing_else(decoder):
    z = embeddings(2, decoder.dim)[[0, 1, 0]]
    torch.manual_seed(1)
    first, other, again = decoder(z, seed=3)
    assert first.mode == "RGB"
    assert difference(first, again) == 0  # the noise is shared
    assert difference(first, other) > 0
    torch.manual_seed(2)
    assert difference(first, decoder(z, seed=3)[0]) == 0
    assert difference(first, decoder(z, seed=4)[0]) > 0
    own = decoder(z[[0, 0]], seed=3, shared_noise=False)
    assert difference(*own) > 2 * ROUNDING


@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_is_its_singles(decoder, shared):
    """Also over batches: the noise belongs to the picture, not to its place in a batch."""
    z = embeddings(5, decoder.dim)
    together = decoder(z, seed=7, shared_noise=shared)
    alone = [decoder(z[i : i + 1], seed=7 if shared else 7 + i)[0] for i in range(5)]
    assert max(difference(a, b) for a, b in zip(together, alone, strict=True)) <= ROUNDING


def test_numpy_and_float64_are_taken(mini):
    z = embeddings(1, mini.dim)
    assert difference(mini(z)[0], mini(z.double().numpy())[0]) == 0


def test_wrong_width_is_said(decoder):
    with pytest.raises(SingError, match=f"z has width 7, expected {decoder.dim}"):
        decoder(torch.ones(1, 7))
    with pytest.raises(SingError, match="pass a row an embedding"):
        decoder(torch.ones(decoder.dim))
    with pytest.raises(SingError, match="NaN"):
        decoder(torch.full((1, decoder.dim), float("nan")))


# --------------------------------------------------------------------------------- mini


def test_mini_pictures_are_64_pixels_and_not_flat():
    pictures = load_pictures("mini", encoder=load_encoder("embedded"))(embeddings(2, 320))
    assert [p.size for p in pictures] == [(64, 64)] * 2
    assert np.asarray(pictures[0]).std() > 10


def test_mini_weights_are_half_precision_and_small():
    files = list(MINI_WEIGHTS.rglob("*.safetensors"))
    assert all(f.stat().st_size < 4e6 for f in files)
    assert 5e6 < sum(f.stat().st_size for f in files) < 15e6


def test_mini_pictures_show_what_was_asked_for(root):
    """Drawn from held-out embeddings, a picture lies nearer to its own than to the others'."""
    store = FeatureStore.open(root / "data/embedded/features/embedded")
    encoder = load_encoder("embedded").only("efficientnet_lite0")
    held_out = store.index[store.index["split"] == "val"]
    rows = held_out.groupby("label").head(1).index.to_numpy(copy=True)  # one of each class
    z = load_encoder("embedded").combine({t: store.read(t)[rows] for t in store.names})
    seen = encoder.encode_images(load_pictures("mini", steps=12)(z, shared_noise=False))
    turned = pairwise_angle(seen, store.read("efficientnet_lite0")[rows])
    own = turned.diagonal().mean()
    assert own < turned.mean() - 8  # degrees


def test_an_unknown_option_is_said_and_what_fails_inside_is_none(monkeypatch):
    with pytest.raises(SingError, match="mini takes no such options.*save_memory"):
        load_pictures("mini", save_memory=True)
    monkeypatch.setattr(MiniUnCLIP, "load", lambda folder, *, name, steps=1: len(steps))
    with pytest.raises(TypeError, match="no len"):
        load_pictures("mini", steps=977)


def test_mini_weights_missing_and_relative_to_the_base(tmp_path):
    with pytest.raises(SingError, match=r"no mini UnCLIP in .*config.json is missing"):
        load_pictures("mini:own", base=tmp_path, encoder=load_encoder("embedded"))
    with pytest.raises(SingError, match=r"no mini UnCLIP in .*restore data/embedded/decoder"):
        load_pictures("mini:own", base=tmp_path)
    shutil.copytree(MINI_WEIGHTS, tmp_path / "own")
    assert load_pictures("mini:own", base=tmp_path).dim == 320


# --------------------------------------------------------------------------------- Karlo


def test_the_deprecated_pipeline_is_still_called_as_we_call_it():
    """Pinned to a version of diffusers: this says what changed when the pin moves."""
    parameters = inspect.signature(UnCLIPImageVariationPipeline.__call__).parameters
    used = {"image_embeddings", "decoder_latents", "super_res_latents", "generator", "decoder_guidance_scale"}
    assert used | {"decoder_num_inference_steps", "super_res_num_inference_steps"} <= set(parameters)
    module = importlib.import_module("diffusers.pipelines.deprecated.unclip")
    assert hasattr(module, "UnCLIPTextProjModel")


def test_karlo_is_what_the_pipeline_draws_from_scaled_shared_latents(karlo):
    """The pipeline called directly, with latents and a generator made by hand."""
    z = embeddings(1, DIM)
    p = karlo.pipeline
    g = torch.Generator().manual_seed(5)
    low = torch.randn(3, 8, 8, generator=g)[None] * p.decoder_scheduler.init_noise_sigma
    high = torch.randn(3, 16, 16, generator=g)[None] * p.super_res_scheduler.init_noise_sigma
    expected = p(
        image_embeddings=z * karlo._clip_norm,
        decoder_latents=low,
        super_res_latents=high,
        generator=g,  # goes on from there: a start and the first step's noise are independent
        decoder_num_inference_steps=3,
        super_res_num_inference_steps=2,
    ).images[0]
    assert difference(karlo(z, seed=5)[0], expected) == 0


def test_karlo_gets_embeddings_of_clips_own_length(karlo, monkeypatch):
    """A unit vector would be next to nothing for a decoder trained on raw embeddings."""
    given = []
    proper = type(karlo.pipeline).__call__
    monkeypatch.setattr(
        type(karlo.pipeline),
        "__call__",
        lambda self, **k: given.append(k["image_embeddings"]) or proper(self, **k),
    )
    karlo(embeddings(2, DIM))
    raw = karlo.pipeline.image_encoder(torch.randn(8, 3, 8, 8)).image_embeds.norm(dim=-1).mean()
    assert float(given[0].norm(dim=-1).mean()) == pytest.approx(float(raw), rel=0.2)
    given.clear()
    Karlo("raw", karlo.pipeline, 2, 2, unit_norm=1.0, progress=False)(embeddings(2, DIM))
    torch.testing.assert_close(given[0], embeddings(2, DIM))


def test_karlo_loads_memory_saving_and_half_precision(karlo_folder, monkeypatch):
    small = load_pictures(f"karlo:{karlo_folder}", save_memory=True, steps=2, progress=False)
    assert small.batch_size == 1
    assert len(small(embeddings(2, DIM))) == 2
    asked = []
    monkeypatch.setattr(UnCLIPImageVariationPipeline, "to", lambda self, *a: asked.append(a))
    monkeypatch.setattr(
        UnCLIPImageVariationPipeline, "enable_model_cpu_offload", lambda self, device: asked.append(device)
    )
    fast = Karlo.load(str(karlo_folder), device="cuda")
    assert fast.pipeline.decoder.dtype == torch.float16
    assert asked == [("cuda",)]
    Karlo.load(str(karlo_folder), device="cuda", save_memory=True)
    assert asked[1:] == ["cuda"]


def test_karlo_loads_the_older_weight_files_too(karlo, karlo_folder, tmp_path):
    """The published repository may hold .bin files; torch reads them with weights_only."""
    shutil.copytree(karlo_folder, tmp_path / "old")
    for part in ("decoder", "text_proj", "super_res_first", "super_res_last"):
        getattr(karlo.pipeline, part).save_pretrained(tmp_path / "old" / part, safe_serialization=False)
        (tmp_path / "old" / part / "diffusion_pytorch_model.safetensors").unlink()
    old = Karlo.load(str(tmp_path / "old"), progress=False, steps=3, super_resolution_steps=2)
    z = embeddings(1, DIM)
    assert difference(old(z)[0], karlo(z)[0]) == 0


def test_karlo_without_a_gpu_says_how_long(karlo, karlo_folder):
    slow = Karlo.load(str(karlo_folder), progress=False, steps=2000)
    with pytest.warns(UserWarning, match=r"no GPU: 400 pictures by Karlo will take about \d+ minutes"):
        slow._warn_of_time(400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        karlo._warn_of_time(1)  # a moment is not worth a warning


def test_karlo_missing_offline_names_command_and_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SingError, match=r"neither in \S+hub nor.*run `hf download kakaobrain/karlo"):
        Karlo.load()
    with pytest.raises(SingError, match="holds no whole UnCLIP pipeline"):
        load_pictures(f"karlo:{tmp_path}")
    with pytest.raises(SingError, match=r"no whole UnCLIP pipeline in .*text_proj/config.json is missing"):
        load_pictures(f"karlo:{tmp_path}", encoder=load_encoder("embedded"))


def test_karlo_needs_the_encoder_of_its_width(karlo_folder):
    with pytest.raises(SingError, match=r"width 32, but the encoder 'embedded' gives 320"):
        load_pictures(f"karlo:{karlo_folder}", encoder=load_encoder("embedded"))


# ----------------------------------------------------------------------- nearest photographs


class Colours:
    """An encoder whose embedding of a picture is its mean colour."""

    name, dim, towers = "colours", 3, ("colours",)
    identity = {"name": "colours", "weights": "0", "transform": "mean"}

    def prepare(self, image):
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32)).mean((0, 1))

    def compute(self, batch):
        return {"colours": torch.nn.functional.normalize(batch, dim=-1)}

    def combine(self, embeddings):
        return embeddings["colours"]


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Nine plain pictures of red turning to blue, and where they lie."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album" / "paint").mkdir(parents=True)
    for i in range(9):
        colour = (240 - 30 * i, 0, 30 * i)
        Image.new("RGB", (4, 4), colour).save(tmp_path / "album" / "paint" / f"{i}.png")
    return tmp_path / "album"


def test_nearest_photos_are_the_nearest(album):
    photos = load_pictures(f"photos:{album}", encoder=Colours())
    z = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])  # any length
    found = photos.search(z, k=3)
    assert found["query"].tolist() == [0, 0, 0, 1, 1, 1]
    assert found["place"].tolist() == [1, 2, 3, 1, 2, 3]
    assert found["path"].tolist() == [f"paint/{i}.png" for i in (0, 1, 2, 8, 7, 6)]
    expected = [np.degrees(np.arctan2(30 * i, 240 - 30 * i)) for i in range(3)] * 2
    np.testing.assert_allclose(found["angle"], expected, atol=0.05)  # kept in half precision
    red, blue = photos(z)
    assert (red.getpixel((0, 0)), blue.getpixel((0, 0))) == ((240, 0, 0), (0, 0, 240))


@pytest.mark.parametrize("name", ["green.png", "paint/4.png"])
def test_nearest_photos_see_that_the_folder_changed(album, name):
    z = torch.tensor([[0.0, 1.0, 0.0]])
    assert load_pictures(f"photos:{album}", encoder=Colours()).search(z, k=1)["path"][0].startswith("paint/")
    Image.new("RGB", (4, 4), (0, 255, 0)).save(album / name)
    found = load_pictures(f"photos:{album}", encoder=Colours()).search(z, k=1)
    assert found["path"].tolist() == [name]


def test_nearest_photos_of_another_encoder_are_its_own(album):
    class Swapped(Colours):
        identity = Colours.identity | {"weights": "1"}

        def compute(self, batch):
            return {k: z.flip(-1) for k, z in super().compute(batch).items()}

    z = torch.tensor([[1.0, 0.0, 0.0]])
    for encoder, nearest in ((Colours(), "paint/0.png"), (Swapped(), "paint/8.png")):
        assert load_pictures(f"photos:{album}", encoder=encoder).search(z, k=1)["path"][0] == nearest


def test_nearest_photos_of_a_store_can_be_named_but_not_shown(root):
    store = FeatureStore.open(root / "data/embedded/features/embedded")
    photos = NearestPhotos.of_store(store, load_encoder("embedded"))
    z = photos.embeddings[[5, 4000]]
    found = photos.search(z, k=2)
    assert found[found["place"] == 1]["path"].tolist() == photos.index["path"].iloc[[5, 4000]].tolist()
    assert found[found["place"] == 1]["angle"].max() < 1e-5
    with pytest.raises(SingError, match="features but no pictures to show"):
        photos(z)
    by_name = load_pictures(f"photos:{store.path}", encoder=load_encoder("embedded"))
    assert by_name.search(z, k=2)["path"].tolist() == found["path"].tolist()
    for k in (0, len(store) + 1):
        with pytest.raises(SingError, match=f"k is {k}, expected 1 to {len(store)}"):
            photos.search(z, k=k)


@pytest.mark.parametrize("name", ["", "dalle", "photos", "karl"])
def test_unknown_backend(name):
    with pytest.raises(SingError, match="unknown picture backend"):
        load_pictures(name)
