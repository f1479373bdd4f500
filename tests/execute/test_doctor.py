"""`sing doctor` and `sing fetch`: what a run will need, said before anything is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import torch
import yaml
from torchvision.models import get_model_weights, squeezenet1_1
from typer.testing import CliRunner

from sing_utils import SingError
from sing_utils.cli import app
from sing_utils.execute import doctor
from sing_utils.execute import needs as execute_needs
from sing_utils.execute.needs import needs
from sing_utils.execute.rehearsal import generate_pictures
from sing_utils.models.judges import is_tower_of
from sing_utils.models.networks import KINDS, Kind, files_of, load_network, parse_source
from sing_utils.runs.profiles import load_profile, rooted


@pytest.fixture
def paper(root):
    return load_profile("paper", root=root)


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """No weights anywhere, and no network."""
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        monkeypatch.setattr(
            module.constants if hasattr(module, "constants") else module, "HF_HUB_CACHE", str(tmp_path)
        )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_the_paper_needs_its_models_its_encoder_and_its_decoder(paper, empty_caches):
    found = {n.what: n for n in needs(paper)}
    assert list(found) == [*paper.classifiers, "encoder", "pictures"]
    assert not any(n.here for n in found.values())
    assert found["ResNeXt101"].licence == "cc-by-nc-4.0"
    assert "SWAG" in found["DINO-ViT"].licence
    # four bytes a parameter: 25.6, 305 and 88.8 million, as published
    assert found["ResNet50"].size == pytest.approx(102.5e6, rel=0.01)
    assert found["DINO-ViT"].size == pytest.approx(1.22e9, rel=0.01)
    assert found["ResNeXt101"].size == pytest.approx(355e6, rel=0.01)
    assert all(n.fetch for n in found.values())


def test_what_is_in_the_cache_is_here(paper, empty_caches):
    weights = get_model_weights("resnet50")["IMAGENET1K_V1"]
    file = empty_caches / "torch" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.touch()
    repository = empty_caches / "models--timm--resnext101_32x8d.fb_wsl_ig1b_ft_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").touch()
    assert {n.what for n in needs(paper) if n.here} == {"ResNet50", "ResNeXt101"}


def test_time_is_that_of_a_picture_times_their_number_and_disk_of_their_features(
    paper, root, monkeypatch, empty_caches
):
    speeds = [doctor.Speed("ResNet50", 2048, 0.1), doctor.Speed("encoder", 768, 1.0)]
    monkeypatch.setattr(doctor, "measure", lambda profile, seconds: speeds)
    usage = doctor.shutil.disk_usage(root)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    text = doctor.report(paper, root, seconds=0.1)
    assert "Time for 10,000 pictures on this machine" in text
    assert "ResNet50: 16.7 min" in text
    assert "encoder: 2.8 h" in text
    assert f"features {4 * (2048 + 768) * 10_000 / 1e6:.0f} MB" in text
    assert "NOT ENOUGH" in text
    assert "Pictures: MISSING: give -p imagenet_dir=FOLDER" in text
    assert "sing fetch --profile paper" in text
    assert "hf download" in text
    assert "ResNet50: torchvision:resnet50@IMAGENET1K_V1: missing" in text


def test_the_measurement_measures_what_is_to_be_run(root, monkeypatch):
    profile = load_profile("laptop", root=root, classifiers={"Small": "timm:mobilenetv3_small_050.lamb_in1k"})
    small, encoder = doctor.measure(profile, 0.1)
    assert (small.name, small.width, encoder.name, encoder.width) == ("Small", 1024, "encoder", 512)
    assert 0 < small.seconds < encoder.seconds
    assert doctor.decoding_speed(0.01) > 1


@pytest.mark.parametrize("name", ["encoder", "pictures"])
def test_a_classifier_may_be_called_like_another_part(root, empty_caches, name):
    profile = load_profile("laptop", root=root, classifiers={name: "torchvision:squeezenet1_1"})
    found = {(n.kind, n.what): n.source for n in needs(profile)}
    assert found["classifier", name] == "torchvision:squeezenet1_1"
    need = next(n for n in needs(profile) if n.kind == "classifier")
    with pytest.raises(SingError, match="weights of torchvision:squeezenet1_1"):
        execute_needs._fetch(need)


@pytest.mark.parametrize(
    ("tag", "licence"),
    [("laion2b_s34b_b79k", "MIT"), ("openai", "MIT"), ("commonpool_m_laion_s128m_b4k", "see its card")],
)
def test_encoders_whatever_their_tag(root, empty_caches, tag, licence):
    profile = load_profile("laptop", root=root, second_encoder=f"open_clip:ViT-B-32/{tag}")
    second = next(n for n in needs(profile) if n.what == "second encoder")
    assert (second.kind, second.licence, second.here) == ("encoder", licence, False)
    assert second.size == pytest.approx(605e6, rel=0.01)


def test_without_open_clip_the_doctor_says_so(root, monkeypatch, empty_caches):
    """As for whoever installed the book without its extra."""
    profile = load_profile("laptop", root=root)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr(execute_needs, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "_seconds", lambda *_: 0.1)
    text = doctor.report(profile, root, seconds=0.1)
    assert "encoder: CAN'T BE LOADED: open_clip is not installed" in text
    assert "pip install -e '.[hub]'" in text
    assert "not counted" in text


def test_pictures_that_are_there_are_counted(root, tmp_path):
    album = generate_pictures(tmp_path / "album", ["disc", "stripes"])
    profile = load_profile("laptop", root=root, images=str(album))
    assert doctor.picture_count(profile, root) == 8
    assert doctor.picture_count(load_profile("laptop", root=root), root) == 1300
    assert doctor.picture_count(load_profile("paper", root=root), root) == 10_000


def test_the_default_profile_needs_nothing(root):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "to download: about 0 kB" in result.output
    assert "missing" not in result.output
    assert "Pictures: none needed" in result.output


# --------------------------------------------------------------------------------- fetching


def test_what_was_fetched_works_without_a_network(empty_caches):
    """torchvision's cache, filled by hand: loading finds it and asks for nothing else."""
    torch.manual_seed(0)
    weights = get_model_weights("squeezenet1_1")["DEFAULT"]
    name = weights.url.rpartition("/")[2]
    (empty_caches / "torch" / "checkpoints").mkdir(parents=True)
    torch.save(squeezenet1_1().state_dict(), empty_caches / "torch" / "checkpoints" / name)
    assert load_network("torchvision:squeezenet1_1").sha256


def test_fetching_without_a_network_names_what_is_missing(empty_caches):
    result = CliRunner().invoke(app, ["fetch", "--classifier", "timm:resnet18.a1_in1k"])
    assert isinstance(result.exception, Exception)
    assert "the weights of timm:resnet18.a1_in1k are not in" in str(result.exception)


def test_fetching_the_default_profile_checks_what_is_here():
    result = CliRunner().invoke(app, ["fetch", "--profile", "embedded"])
    assert result.exit_code == 0, result.output
    assert "efficientnet_lite0: efficientnet_lite0: here; 1280 features, 1000 classes" in result.output
    assert "encoder: embedded: here; 320 dimensions" in result.output


def test_a_profile_is_pinned_to_the_commits_in_the_cache(paper, tmp_path, monkeypatch):
    commits = {
        "timm/tf_efficientnet_b4.ns_jft_in1k": "b" * 40,
        "timm/resnetv2_50x1_bit.goog_in21k_ft_in1k": "c" * 40,
    }
    monkeypatch.setattr(execute_needs, "cached_commit", lambda repository: commits.get(repository))
    assert execute_needs.pin(paper, tmp_path / "pinned.yaml") == ["EfficientNet", "BiTResNet"]
    values = yaml.safe_load((tmp_path / "pinned.yaml").read_text())["classifier_sources"]
    assert values["EfficientNet"] == f"timm:tf_efficientnet_b4.ns_jft_in1k@{'b' * 40}"
    assert values["ResNet50"] == "torchvision:resnet50@IMAGENET1K_V1"
    again = load_profile(str(tmp_path / "pinned.yaml"), root=Path(__file__).parents[2])
    assert again.source_of("BiTResNet").endswith("@" + "c" * 40)


def test_both_encoders_are_pinned(root, tmp_path, monkeypatch):
    monkeypatch.setattr(
        execute_needs, "cached_commit", lambda repository: "e" * 40 if "laion" in repository else None
    )
    names = [f"open_clip:ViT-B-32/{tag}" for tag in ("laion2b_s34b_b79k", "laion2b_e16")]
    profile = load_profile("laptop", root=root, encoder=names[0], second_encoder=names[1])
    assert execute_needs.pin(profile, tmp_path / "pinned.yaml") == ["the encoder", "the second encoder"]
    again = load_profile(str(tmp_path / "pinned.yaml"), root=root)
    assert [again.encoder, again.second_encoder] == [f"{name}@{'e' * 40}" for name in names]


def test_the_cached_commit_is_the_snapshots(empty_caches):
    folder = empty_caches / "models--org--net"
    (folder / "snapshots" / ("d" * 40)).mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "blobs" / "x").write_text("weights")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("d" * 40)
    (folder / "snapshots" / ("d" * 40) / "model.safetensors").symlink_to("../../blobs/x")
    assert execute_needs.cached_commit("org/net") == "d" * 40
    assert execute_needs.cached_commit("org/other") is None


@pytest.mark.parametrize("given", [[], ["--profile", "paper", "--encoder", "embedded"]])
def test_fetch_wants_one_thing(given):
    result = CliRunner().invoke(app, ["fetch", *given])
    assert "expected exactly one of --profile, --classifier and --encoder" in str(result.exception)


# ---------------------------------------------------------------- a model of one's own, pictures


OWN = {
    "raises": "raise RuntimeError('no GPU')",
    "nothing": "return None",
    "no head": "import torch; return torch.nn.Conv2d(3, 3, 1)",
}


@pytest.mark.parametrize("body", OWN)
def test_a_model_that_cannot_be_loaded_is_no_model(root, tmp_path, monkeypatch, body):
    file = tmp_path / "mine.py"
    file.write_text(f"def build():\n    {OWN[body]}\n")
    result = CliRunner().invoke(app, ["doctor", "-p", f"classifiers={{Mine: 'file:{file}:build'}}"])
    assert result.exit_code == 1, result.output
    assert "Mine: CAN'T BE LOADED: " in result.output


def test_a_new_kind_of_classifier_is_known_everywhere_by_its_entry(root, tmp_path, monkeypatch):
    def build(source, rehearse):
        raise SingError(f"{Path(source.name).name} is no network.")

    monkeypatch.setitem(KINDS, "odd", Kind("odd:FILE.odd", build, path="(.+)", published=False))
    (tmp_path / "efficientnet_lite0@me.odd").touch()
    spec = rooted("odd:efficientnet_lite0@me.odd", tmp_path)
    assert spec == f"odd:{tmp_path / 'efficientnet_lite0@me.odd'}"
    assert files_of(spec) == [tmp_path / "efficientnet_lite0@me.odd"]
    assert not is_tower_of("efficientnet_lite0", spec)
    with pytest.raises(SingError, match=r"head:FILE.safetensors, odd:FILE.odd, or one of efficientnet_lite0"):
        parse_source("keras:resnet50")
    result = CliRunner().invoke(app, ["doctor", "-p", f"classifiers={{Mine: '{spec}'}}"])
    assert f"Mine: {spec}: here; licence: your own" in result.output
    assert "Mine: CAN'T BE LOADED: efficientnet_lite0@me.odd is no network." in result.output


@pytest.mark.parametrize(
    "given",
    [
        ["--profile", "laptop"],
        ["--profile", "laptop", "-p", "images=nowhere/photos"],
        ["-p", "images=nowhere"],
        ["-p", "classifiers={Mine: 'head:nowhere.safetensors'}"],
        ["-p", "classifiers={Mine: 'hf:{here}'}"],
    ],
)
def test_what_a_run_cannot_do_without_is_its_exit_code(root, tmp_path, empty_caches, monkeypatch, given):
    monkeypatch.setattr(doctor, "measure", lambda profile, seconds: [])
    given = [a.replace("{here}", str(tmp_path)) for a in given]
    result = CliRunner().invoke(app, ["doctor", "--seconds", "1", *given])
    assert result.exit_code == 1, result.output
    assert any(word in result.output for word in doctor.BLOCKERS)
