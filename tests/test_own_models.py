"""A run of one's own model and pictures: a Python file, a CSV of labels, a head without a network."""

from __future__ import annotations

import pytest
import torch

from sing_utils import SingError
from sing_utils.rehearsal import generate_pictures
from sing_utils.run import open_run

OWN = """
import numpy as np
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 9), nn.Linear(9, 2))
    model.labels = ["stripes", "disc"]
    return model, to_tensor

def to_tensor(image):
    return torch.from_numpy(np.array(image.resize((8, 8)))).float().permute(2, 0, 1) / 255
"""


@pytest.fixture
def own_run(tmp_path, root, monkeypatch):
    """A checkout in another place with pictures, a model file and the book's data; runs open in it."""
    for name in ("data", "notebooks"):
        (tmp_path / name).symlink_to(root / name)
    generate_pictures(tmp_path / "album", ["disc", "stripes"])
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "notebooks")  # where notebooks run
    monkeypatch.setattr("sing_utils.run.project_root", lambda: tmp_path)
    return lambda **given: open_run(
        "embedded",
        run_dir="_build/run",
        **{"images": "album", "classifiers": {"Mine": "file:mine.py:build"}} | given,
    )


def test_a_run_of_ones_own_model_and_pictures(own_run, monkeypatch):
    run = own_run()
    data = run.data("Mine")
    assert data.f.shape == (8, 9)
    assert data.evaluation.index["class"].tolist() == ["disc", "disc", "stripes", "stripes"]
    head = run.head("Mine")
    assert head.label(0) == "stripes"
    picture = run.original(data.index["path"][3])
    out = run.classifier("Mine")(run.classifier("Mine").prepare(picture)[None])
    torch.testing.assert_close(out.features[0], data.f[3])  # another batch rounds otherwise
    again = own_run()
    monkeypatch.setattr("sing_utils.run.load_classifier", lambda *_, **__: pytest.fail("it was loaded again"))
    assert torch.equal(again.head("Mine").weight, head.weight)
    assert torch.equal(again.data("Mine").f, data.f)


def test_a_csv_of_labels_makes_a_run(own_run, tmp_path):
    paths = sorted(p.relative_to(tmp_path / "album").as_posix() for p in (tmp_path / "album").rglob("*.png"))
    rows = [f"{p},{'a' if i % 2 else 'b'},{'val' if i < 4 else 'train'}" for i, p in enumerate(paths)]
    (tmp_path / "album" / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    data = own_run(images="album/labels.csv").data("Mine")
    assert data.index["label"].tolist() == ["b", "a"] * 4
    assert data.index["evaluation"].tolist() == [True] * 4 + [False] * 4


def test_few_pictures_of_each_class(own_run):
    assert own_run(per_class=3).data("Mine").index.groupby("label").size().tolist() == [3, 3]


def test_a_head_alone_needs_stored_features(own_run, tmp_path):
    own_run().data("Mine")
    own_run().head("Mine").save(tmp_path / "head.safetensors")
    [stored] = (tmp_path / "_build" / "features").glob("file-*")
    (tmp_path / "features").mkdir()
    stored.rename(tmp_path / "features" / "Mine")
    next((tmp_path / "_build" / "features").glob("embedded-*")).rename(tmp_path / "features" / "embedded")
    run = own_run(classifiers={"Mine": "head:head.safetensors"}, images=None, features="features")
    assert run.spaces("Mine").null_dim == 7
    assert len(run.data("Mine").f) == 8
    with pytest.raises(SingError, match=r"head.safetensors is a head without a network, expected one here"):
        run.classifier("Mine")
