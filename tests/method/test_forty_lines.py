"""The page "The method in 40 lines" runs, with random weights and drawn photos, and agrees with us."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sing_utils import HeadSpaces, attribute_score, image_score

PAGE = (Path(__file__).resolve().parents[2] / "book" / "forty_lines.md").read_text()
REPLACED = {
    "resnet50(weights=weights)": "resnet50(weights=None)",
    'pretrained="laion2b_s34b_b79k"': "pretrained=None",
    "ViT-B-32": "ViT-S-32-alt",  # smaller
}


def test_it_runs_and_agrees_with_the_package(tmp_path, monkeypatch, make_picture):
    for i in range(8):
        make_picture(tmp_path / "photos" / ("cat" if i < 4 else "dog") / f"{i}.png", seed=i, size=(40, 30))
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
    for given, here in REPLACED.items():
        assert given in code
        code = code.replace(given, here)
    lines = [x for x in code.splitlines() if x.strip() and not x.lstrip().startswith("#")]
    assert len(lines) <= 40
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: dict = {}
    exec(code, found)
    spaces = HeadSpaces.from_weight(found["W"].float())
    assert found["V_n"].shape == (2048, 1048)
    assert torch.allclose(spaces.remove_null(found["f"]), found["f_tilde"], atol=1e-9)
    Tf, Tf_tilde = found["Tf"], found["f_tilde"][found["new"]] @ found["T"].T
    assert torch.allclose(image_score(Tf, Tf_tilde), found["IS"])
    assert torch.allclose(attribute_score(Tf, Tf_tilde, found["u"]), found["AS"])
