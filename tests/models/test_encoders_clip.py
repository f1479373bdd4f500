"""CLIPs of open_clip and Karlo's own: real classes with random weights in local files."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from fakes import Evil
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from sing_utils.errors import SingError
from sing_utils.features.extraction import extract
from sing_utils.features.fitting import fit_stores
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.encoders import load_encoder, require_encoder
from sing_utils.models.judges import Judge
from sing_utils.models.weights import contains, signs_of

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("diffusers")

from sing_utils.execute.rehearsal import build_tiny_karlo  # noqa: E402
from sing_utils.models.clip import (  # noqa: E402
    _karlo_rehearsal,
    load_karlo_clip,
    load_open_clip,
    parse_open_clip,
)

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
TEXTS = ["a cat", "a rocket", "a cup of coffee"]


@pytest.fixture(scope="module")
def pictures():
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 40, 50, 3), generator=g, dtype=torch.uint8).numpy()
    return [Image.fromarray(p) for p in pixels]


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    """The same in files."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small CLIP under its own name in open_clip's list, and its random weights."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "tiny.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(folder / "tiny.json")
    torch.manual_seed(7)
    model = open_clip.create_model("tiny").eval()
    save_file(model.state_dict(), folder / "w.safetensors")
    torch.save(model.state_dict(), folder / "w.pt")
    return folder, model


@pytest.fixture(scope="module")
def encoder(tiny):
    return load_open_clip(f"open_clip:tiny/{tiny[0] / 'w.safetensors'}")


def unit(x):
    return torch.allclose(x.norm(dim=-1), torch.ones(len(x)), atol=1e-5)


# ------------------------------------------------------------------------------ open_clip


def test_it_computes_what_open_clip_does(tiny, encoder, pictures):
    _, _, transform = open_clip.create_model_and_transforms("tiny")
    model = tiny[1]
    with torch.inference_mode():
        z = model.encode_image(torch.stack([transform(p) for p in pictures]), normalize=True)
        t = model.encode_text(open_clip.get_tokenizer("tiny")(TEXTS), normalize=True)
    assert (encoder.encode_images(pictures) - z).abs().max() < 1e-5
    assert (encoder.encode_text(TEXTS) - t).abs().max() < 1e-5
    assert z.shape == (3, encoder.dim) == (3, 24)


def test_more_pictures_and_texts_than_a_batch(encoder, pictures):
    """What comes out is of unit length and does not depend on its neighbours."""
    singles = torch.cat([encoder.encode_images([p]) for p in pictures])
    assert unit(singles)
    assert (encoder.encode_images(pictures * 12) - singles.repeat(12, 1)).abs().max() < 1e-5
    texts = [f"number {i}" for i in range(70)]
    t = encoder.encode_text(texts)
    assert unit(t)
    assert (t[65] - encoder.encode_text(["number 65"])[0]).abs().max() < 1e-5
    assert torch.equal(encoder.encode_text([texts[2], texts[0], texts[2]]), t[[2, 0, 2]])


@pytest.fixture
def fetched(monkeypatch, tiny):
    """What open_clip was asked to fetch for the tag `mine` of the small CLIP; it gets the random weights."""
    from open_clip import pretrained

    asked = []

    def fetch(repository, filename=None, revision=None):
        asked.append((repository, filename, revision))
        return str(tiny[0] / "w.safetensors")

    monkeypatch.setattr(pretrained, "download_pretrained_from_hf", fetch)

    def tag(name, **settings):
        monkeypatch.setitem(pretrained._PRETRAINED, "tiny", {"mine": {"hf_hub": name} | settings})
        return asked

    return tag


def test_every_format_of_weights_is_the_same_model(tiny, encoder):
    """The digest is of tensors, not of files; the name stays part of the identity."""
    other = load_open_clip(f"open_clip:tiny/{tiny[0] / 'w.pt'}")
    assert other.identity["weights"] == encoder.identity["weights"]
    assert other.identity != encoder.identity


def test_the_identity_holds_what_the_numbers_depend_on(tiny, encoder, tmp_path):
    kept = encoder.identity
    assert kept == load_open_clip(encoder.name).identity  # no address in memory, nothing of the moment
    assert kept["library"] == f"open_clip {open_clip.__version__}"
    assert (kept["model"], kept["pretrained"]) == ("tiny", "file w.safetensors")
    assert '"size": [32, 32]' in kept["transform"]
    assert "0x" not in json.dumps(kept)
    changed = load_file(tiny[0] / "w.safetensors")
    changed["text_projection"][0, 0] += 1
    save_file(changed, tmp_path / "w.safetensors")
    other = load_open_clip(f"open_clip:tiny/{tmp_path / 'w.safetensors'}").identity
    assert other["weights"] != kept["weights"]
    assert other["transform"] == kept["transform"]


def test_it_extracts_into_a_store_and_judges_every_classifier(encoder, pictures, folder, tmp_path):
    store = extract(encoder, folder, tmp_path / "store", workers=0, progress=False)
    assert unit(store.read(encoder.towers[0]))
    judge = encoder.judge_of("resnet50")
    assert isinstance(judge, Judge)
    assert judge.encoder is encoder
    assert encoder.judge_of(f"file:{encoder.name}.py:build").encoder is encoder  # a name alone says nothing
    assert (judge.targets(store) - encoder.encode_images(pictures)).abs().max() < 1e-5
    with pytest.raises(SingError, match="got embeddings of other, expected also encoder-open_clip:tiny"):
        encoder.combine({"other": torch.ones(1, 24)})


PROBE = """
import open_clip
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import transforms as V

def build():
    open_clip.add_model_config("tiny.json")
    torch.manual_seed(1)
    clip = open_clip.create_model("tiny")
    if {same}:
        clip.load_state_dict(load_file("w.safetensors"))
    return nn.Sequential(clip.visual, nn.Linear(24, 5)){half}, V.Compose([V.Resize((32, 32)), V.ToTensor()])
"""


@pytest.mark.parametrize("half", ["", ".half()"])
def test_a_probe_on_its_own_image_tower_is_not_judged(tiny, encoder, folder, tmp_path, half):
    (tiny[0] / "probe.py").write_text(PROBE.format(same=True, half=half))
    (tiny[0] / "apart.py").write_text(PROBE.format(same=False, half=half))
    probe, apart = (load_classifier.__wrapped__(f"file:{tiny[0] / x}.py:build") for x in ("probe", "apart"))
    with pytest.raises(SingError, match="built on.*trained apart"):
        encoder.judge_of(probe.identity)
    assert encoder.judge_of(apart.identity).encoder is encoder
    assert load_encoder("embedded").judge_of(probe.identity).left_out == ()
    stores = [
        extract(x, folder, tmp_path / str(i), workers=0, progress=False)
        for i, x in enumerate((probe, apart, encoder))
    ]
    with pytest.raises(SingError, match="built on.*trained apart"):
        fit_stores(stores[0], stores[2], encoder=None)
    fit_stores(stores[1], stores[2], encoder=None)


def test_a_probe_on_karlos_image_tower_is_not_judged(karlo):
    encoder = load_encoder(f"karlo:{karlo[0]}")
    identity = {"name": "file:mine.py:build", "signs": signs_of(karlo[1].image_encoder.vision_model)}
    with pytest.raises(SingError, match="trained apart"):
        encoder.judge_of(identity)


def test_a_clip_is_known_in_another_library():
    """timm's names and transformers' separate q, k, v: the layers between them are alike."""
    torch.manual_seed(0)
    ours = torch.nn.MultiheadAttention(64, 2), torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)
    theirs = torch.nn.ModuleDict({x: torch.nn.Linear(64, 64) for x in "qkv"} | {"a": ours[1], "b": ours[2]})
    assert contains(signs_of(theirs), signs_of(torch.nn.ModuleList(ours)))
    assert not contains(signs_of(theirs["q"]), signs_of(torch.nn.ModuleList(ours)))


def test_a_tag_brings_its_own_settings(fetched, encoder):
    """The tag's QuickGELU and pixel statistics count, though open_clip gets only the file."""
    asked = fetched("someone/tiny/w.safetensors", quick_gelu=True, mean=(0.1, 0.2, 0.3))
    with_tag = load_open_clip("open_clip:tiny/mine@abc123")
    assert asked == [("someone/tiny", "w.safetensors", "abc123")]
    assert with_tag.identity["model"] == "tiny, QuickGELU"
    assert "0.1, 0.2, 0.3" in with_tag.identity["transform"]
    assert encoder.identity["weights"] == with_tag.identity["weights"]
    x = torch.ones(1, 3, 32, 32)
    own = with_tag.compute(x)[with_tag.towers[0]]
    assert (encoder.compute(x)[encoder.towers[0]] - own).abs().max() > 1e-5


@pytest.mark.parametrize("file", ["", "own.bin"])
def test_weights_fetched_before_need_no_network(monkeypatch, tmp_path, tiny, fetched, file):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked = fetched(f"someone/tiny/{file}")
    commit = "0123456789" * 4
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    cached = snapshot / ("own.safetensors" if file else "open_clip_model.safetensors")
    cached.write_bytes((tiny[0] / "w.safetensors").read_bytes())
    for name in ("open_clip:tiny/mine", f"open_clip:tiny/mine@{commit}"):
        assert load_open_clip(name).identity["pretrained"] == f"mine, someone/tiny at {commit}"
    assert asked == []
    load_open_clip("open_clip:tiny/mine@other")
    assert len(asked) == 1


def test_rehearsal_needs_no_weights_and_is_repeatable(fetched):
    asked = fetched("someone/tiny/")
    state = torch.get_rng_state()
    a, b = (load_open_clip("open_clip:tiny/mine", rehearse=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert a.identity == b.identity
    assert a.identity["pretrained"] == "random, seed 0"
    assert unit(a.encode_text(TEXTS))
    assert load_encoder("open_clip:tiny/mine", rehearse=True).identity == a.identity
    assert asked == []


def test_a_model_with_a_vocabulary_on_the_hub_is_rehearsed_without_it(tmp_path):
    text = TEXT | {"vocab_size": 100, "hf_tokenizer_name": "no/where"}
    (tmp_path / "foreign.json").write_text(
        json.dumps({"embed_dim": 8, "vision_cfg": VISION, "text_cfg": text, "custom_text": True})
    )
    open_clip.add_model_config(tmp_path / "foreign.json")
    (tmp_path / "w").touch()
    encoder = load_open_clip(f"open_clip:foreign/{tmp_path / 'w'}", rehearse=True)
    assert unit(encoder.encode_text(TEXTS))


def test_a_text_that_is_too_long_is_an_error_not_cut(encoder):
    assert unit(encoder.encode_text([" ".join(["cat"] * 10)]))  # 12 with its two marks
    for words in (11, 12, 23, 24, 60):
        long = " ".join(["cat"] * words)
        with pytest.raises(SingError, match=r"begins 'cat cat .* than the 12 .* open_clip:tiny"):
            encoder.encode_text(["a cat", long])
    with pytest.raises(SingError, match="text 0 is None"):
        encoder.encode_text([None])


# ------------------------------------------------------------------- names and bad weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-23/openai", "unknown open_clip model 'ViT-B-23'.*did you mean 'ViT-B-32'"),
        ("open_clip:ViT-L-14/openia", "unknown weights of ViT-L-14.*'openia'.*did you mean 'openai'"),
        ("open_clip:ViT-S-16/openai", "nor weights of ViT-S-16 .*, expected a file"),
        ("open_clip:ViT-L-14", "names no weights, expected open_clip:MODEL/PRETRAINED"),
        ("open_clip:ViT-L-14/openai@", "names no weights"),
        ("open_clip:", "names no weights"),
        ("openclip:ViT-L-14/openai", "unknown encoder .*did you mean 'open_clip:MODEL"),
        ("carlo", "unknown encoder 'carlo'.*did you mean 'karlo'"),
        ("embedded:x", "unknown encoder 'embedded:x'"),
        ("karlo:", "unknown encoder 'karlo:'"),
        ("karlo:/no/such/folder", "/no/such/folder is no folder"),
        ("", "unknown encoder ''"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_loaded(name, message):
    with pytest.raises(SingError, match=message):
        require_encoder(name)


def test_right_names_are_taken():
    for name in ("embedded", "karlo", "karlo:someone/other-pipeline", "open_clip:ViT-L-14/openai"):
        require_encoder(name)
    parsed = parse_open_clip("open_clip:ViT-L-14/laion2b-s32b-b82k@abc")  # as open_clip itself reads tags
    assert (parsed.tag, parsed.revision) == ("laion2b-s32b-b82k", "abc")


def test_without_open_clip_names_are_read_and_loading_says_what_is_missing(tmp_path):
    code = (
        "import sys; sys.modules['open_clip'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'open_clip' else find(n, *a)\n"
        "from sing_utils.models.encoders import load_encoder, require_encoder\n"
        "require_encoder('open_clip:ViT-L-14/openai')\n"
        "load_encoder('open_clip:ViT-L-14/openai')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "SingError: open_clip is not installed, expected it here: pip install -e '.[hub]'" in done.stderr


@pytest.mark.parametrize("name", ["open_clip:RN50/openai", "karlo"])
def test_missing_weights_name_the_cache_and_the_command(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SingError, match=rf"{name} are not in {tmp_path} .*run `sing fetch --encoder {name}`"):
        load_encoder(name)


def test_pickled_code_is_not_run(tiny, tmp_path):
    state = dict(tiny[1].state_dict()) | {"extra": Evil(tmp_path / "ran")}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(SingError, match="holds more than tensors"):
        load_open_clip(f"open_clip:tiny/{tmp_path / 'w.pt'}")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(SingError):
        load_open_clip(f"open_clip:tiny/{tmp_path / 'plain.pt'}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path, tiny):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "openai.pt")
    with pytest.raises(SingError, match="openai.pt is a TorchScript archive"):
        load_open_clip(f"open_clip:tiny/{tmp_path / 'openai.pt'}")


@pytest.mark.parametrize("kind", ["empty.pt", "junk.pt", "junk.safetensors", "other.safetensors", "cut.pt"])
def test_other_files_are_refused(tmp_path, tiny, kind):
    path = tmp_path / kind
    path.write_bytes({"empty.pt": b"", "cut.pt": (tiny[0] / "w.pt").read_bytes()[:-900]}.get(kind, b"junk"))
    if kind == "other.safetensors":
        save_file({"weight": torch.ones(2, 2)}, path)
    with pytest.raises(SingError, match=f"{kind} holds no weights of tiny"):
        load_open_clip(f"open_clip:tiny/{path}")


# ---------------------------------------------------------------------------- Karlo's CLIP


@pytest.fixture(scope="module")
def karlo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("karlo")
    return folder, build_tiny_karlo(folder)


def test_karlos_clip_computes_what_the_pipeline_does(karlo, pictures):
    folder, pipeline = karlo
    encoder = load_encoder(f"karlo:{folder}")
    pixels = pipeline.feature_extractor(images=pictures, return_tensors="pt").pixel_values
    texts = ["a", "a a a"]
    ids = pipeline.tokenizer(texts, padding="max_length", max_length=8, return_tensors="pt").input_ids
    with torch.inference_mode():
        z = pipeline.image_encoder(pixels).image_embeds
        t = pipeline.text_encoder(ids).text_embeds
    assert (encoder.encode_images(pictures) - z / z.norm(dim=-1, keepdim=True)).abs().max() < 1e-5
    assert (encoder.encode_text(texts) - t / t.norm(dim=-1, keepdim=True)).abs().max() < 1e-5
    assert encoder.dim == 32


def test_karlos_long_texts_are_errors(karlo):
    encoder = load_encoder(f"karlo:{karlo[0]}")
    assert unit(encoder.encode_text(["a a a a a a"]))  # 8 with its two marks
    with pytest.raises(SingError, match=r"more word pieces than the 8 .* karlo:"):
        encoder.encode_text(["a", "a a a a a a a"])


def test_karlos_identity_follows_both_towers(karlo, tmp_path):
    folder, pipeline = karlo
    kept = load_encoder(f"karlo:{folder}").identity
    assert kept["library"].startswith("transformers ")
    assert kept["pretrained"] == f"folder {folder.name}"
    assert '"shortest_edge": 8' in kept["transform"]
    for part in ("text_encoder", "image_encoder"):
        other = tmp_path / part / folder.name
        pipeline.save_pretrained(other)
        with torch.no_grad():
            file = other / part / "model.safetensors"
            changed = load_file(file)
            changed[min(changed)] += 1
            save_file(changed, file, metadata={"format": "pt"})
        identity = load_karlo_clip(f"karlo:{other}").identity
        assert identity["weights"] != kept["weights"]


def test_half_precision_weights_compute_in_float32(karlo, tmp_path):
    for part in ("image_encoder", "text_encoder", "tokenizer", "feature_extractor"):
        getattr(karlo[1], part).save_pretrained(tmp_path / part)
    file = tmp_path / "image_encoder" / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    encoder = load_karlo_clip(f"karlo:{tmp_path}")
    z = encoder.encode_images([Image.new("RGB", (9, 9))])
    assert z.dtype == torch.float32
    assert unit(z)


@pytest.mark.parametrize(
    "broken", ["image_encoder", "text_encoder", "tokenizer", "feature_extractor", "weight"]
)
def test_a_folder_that_lacks_a_part_is_refused(karlo, tmp_path, broken):
    for part in ("image_encoder", "text_encoder", "tokenizer", "feature_extractor"):
        if part != broken:
            getattr(karlo[1], part).save_pretrained(tmp_path / part)
    if broken == "weight":  # transformers would start it at random, with a warning only
        file = tmp_path / "text_encoder" / "model.safetensors"
        kept = {k: v for k, v in load_file(file).items() if "text_projection" not in k}
        save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(SingError, match="holds no CLIP of Karlo's"):
        load_karlo_clip(f"karlo:{tmp_path}")


def test_karlos_rehearsal_is_its_architecture(monkeypatch):
    """CLIP ViT-L/14 has 303 966 208 + 768 * 1024 and 123 060 480 + 768 * 768 parameters; built empty here."""
    with torch.device("meta"):
        parts = _karlo_rehearsal()
    assert sum(p.numel() for p in parts["image"].parameters()) == 303_179_776 + 768 * 1024
    assert sum(p.numel() for p in parts["text"].parameters()) == 123_060_480 + 768 * 768
    assert parts["image"].config.projection_dim == parts["text"].config.projection_dim == 768
    assert (
        parts["feature_extractor"](Image.new("RGB", (9, 9)), return_tensors="pt").pixel_values.shape[-1]
        == 224
    )
    ids = parts["tokenize"]("karlo", ["a cat"])
    assert ids.shape == (1, 77)
    assert ids[0, :4].tolist() == [49406, 320, 2368, 49407]  # CLIP's own vocabulary
    assert parts["text"].config.eos_token_id == 49407
