"""`sing doctor` and `sing fetch`: what a run will need, said before anything is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models import get_model_weights, squeezenet1_1
from typer.testing import CliRunner

from sing_utils.cli import app
from sing_utils.execute import doctor, fetch, speed
from sing_utils.execute.needs import needs
from sing_utils.execute.rehearsal import generate_pictures
from sing_utils.runs.profiles import load_profile


@pytest.fixture
def paper(root):
    return load_profile("paper", root=root)


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """No weights anywhere, and no network."""
    import huggingface_hub.constants
    import huggingface_hub.file_download

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


def test_operations_are_those_published(root):
    """ResNet50: 4.09 billion multiply-adds at 224 pixels (torchvision's own table), so 8.18 operations."""
    profile = load_profile("workshop", root=root)
    resnet, encoder = speed.work_of(profile)
    published = get_model_weights("resnet50")["IMAGENET1K_V1"].meta["_ops"]
    assert resnet.convolutions + resnet.products == pytest.approx(2e9 * published, rel=0.02)
    assert resnet.products == 2 * 2048 * 1000  # the head alone
    assert (resnet.width, encoder.width) == (2048, 512)
    assert encoder.products > encoder.convolutions


def test_time_is_operations_over_measured_rates(paper, root, monkeypatch, empty_caches):
    work = [speed.Work("ResNet50", 2048, 8e9, 4e6), speed.Work("encoder", 768, 0.0, 160e9)]
    monkeypatch.setattr(doctor, "work_of", lambda profile: work)
    monkeypatch.setattr(doctor, "measure", lambda seconds: speed.Rates("a machine", 8e10, 1.6e11, 100.0))
    text = doctor.report(paper, root)
    assert "Time for 10,000 pictures on this machine (a machine; measured just now" in text
    assert "ResNet50: 16.7 min" in text  # 10,000 x 0.1 s
    assert "encoder: 2.8 h" in text  # 10,000 x 1 s
    assert f"features {4 * (2048 + 768) * 10_000 / 1e6:.0f} MB" in text
    assert "Pictures: MISSING: give -p imagenet_dir=FOLDER" in text
    assert "sing fetch --profile paper" in text
    assert "hf download" in text
    assert "here" not in re.findall(r"ResNet50: torchvision.*", text)[0].replace("whose", "")


def test_the_measurement_measures():
    rates = speed.measure(0.5)
    assert rates.convolutions > 1e8
    assert rates.products > 1e8
    assert rates.decoded > 1
    assert rates.device.startswith(("CPU", "NVIDIA"))


def test_too_little_disk_is_said(paper, root, monkeypatch, empty_caches):
    monkeypatch.setattr(doctor, "work_of", lambda profile: [])
    monkeypatch.setattr(doctor, "measure", lambda seconds: speed.Rates("m", 1, 1, 1))
    usage = doctor.shutil.disk_usage(root)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    assert "NOT ENOUGH" in doctor.report(paper, root)


def test_pictures_that_are_there_are_counted(root, tmp_path):
    album = generate_pictures(tmp_path / "album", ["disc", "stripes"])
    profile = load_profile("workshop", root=root, images=str(album))
    assert doctor.picture_count(profile, root) == 8
    assert doctor.picture_count(load_profile("workshop", root=root), root) == 1300
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
    from sing_utils.models.networks import load_network

    assert load_network("torchvision:squeezenet1_1").sha256


def test_fetching_without_a_network_names_what_is_missing(empty_caches):
    result = CliRunner().invoke(app, ["fetch", "--classifier", "timm:resnet18.a1_in1k"])
    assert isinstance(result.exception, Exception)
    assert "the weights of timm:resnet18.a1_in1k are not in" in str(result.exception)


def test_fetching_the_default_profile_checks_what_is_here(root):
    result = CliRunner().invoke(app, ["fetch", "--profile", "embedded"])
    assert result.exit_code == 0, result.output
    assert "efficientnet_lite0: efficientnet_lite0: here; 1280 features, 1000 classes" in result.output
    assert "encoder: embedded: here; 320 dimensions" in result.output


def test_a_profile_is_pinned_to_the_commits_in_the_cache(paper, tmp_path, monkeypatch):
    commits = {
        "timm/tf_efficientnet_b4.ns_jft_in1k": "b" * 40,
        "timm/resnetv2_50x1_bit.goog_in21k_ft_in1k": "c" * 40,
    }
    monkeypatch.setattr(fetch, "cached_commit", lambda repository: commits.get(repository))
    assert fetch.pin(paper, tmp_path / "pinned.yaml") == ["EfficientNet", "BiTResNet"]
    values = yaml.safe_load((tmp_path / "pinned.yaml").read_text())["classifier_sources"]
    assert values["EfficientNet"] == f"timm:tf_efficientnet_b4.ns_jft_in1k@{'b' * 40}"
    assert values["ResNet50"] == "torchvision:resnet50@IMAGENET1K_V1"
    again = load_profile(str(tmp_path / "pinned.yaml"), root=Path(__file__).parents[2])
    assert again.source_of("BiTResNet").endswith("@" + "c" * 40)


def test_the_cached_commit_is_the_snapshots(empty_caches):
    folder = empty_caches / "models--org--net"
    (folder / "snapshots" / ("d" * 40)).mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "blobs" / "x").write_text("weights")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("d" * 40)
    (folder / "snapshots" / ("d" * 40) / "model.safetensors").symlink_to("../../blobs/x")
    assert fetch.cached_commit("org/net") == "d" * 40
    assert fetch.cached_commit("org/other") is None


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


@pytest.mark.parametrize(
    "given",
    [
        ["--profile", "workshop"],
        ["--profile", "workshop", "-p", "images=nowhere/photos"],
        ["-p", "images=nowhere"],
        ["-p", "classifiers={Mine: 'head:nowhere.safetensors'}"],
        ["-p", "classifiers={Mine: 'hf:{here}'}"],
    ],
)
def test_what_a_run_cannot_do_without_is_its_exit_code(root, tmp_path, empty_caches, monkeypatch, given):
    monkeypatch.setattr(doctor, "measure", lambda seconds: speed.Rates("CPU", 1e9, 1e9, 10.0))
    result = CliRunner().invoke(app, ["doctor", *[a.replace("{here}", str(tmp_path)) for a in given]])
    assert result.exit_code == 1, result.output
    assert any(word in result.output for word in doctor.BLOCKERS)
