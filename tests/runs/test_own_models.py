"""A run of one's own model and pictures: a Python file, a CSV of labels, a head without a network."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sing_utils import SingError
from sing_utils.execute.notebooks import _forget_models, _inputs_key
from sing_utils.execute.rehearsal import GENERATED, generate_pictures, rehearsal_parameters
from sing_utils.models.classifiers import LinearHead, load_classifier
from sing_utils.models.networks import load_network
from sing_utils.models.own_files import code_digest
from sing_utils.models.weights import state_digest, weights_digest
from sing_utils.runs.profiles import load_profile
from sing_utils.runs.run import open_run
from sing_utils.sources.decoding import UnreadableError, read_picture

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
    monkeypatch.setattr("sing_utils.runs.run.project_root", lambda **_: tmp_path)
    return lambda **given: open_run(
        "embedded",
        **{"images": "album", "classifiers": {"Mine": "file:mine.py:build"}} | given,
    )


def test_a_run_of_ones_own_model_and_pictures(own_run, monkeypatch):
    run = own_run()
    data = run.photos("Mine", "all")
    assert data.f.shape == (8, 9)
    assert run.photos("Mine").index["class"].tolist() == ["disc", "disc", "stripes", "stripes"]
    head = run.head("Mine")
    assert head.label(0) == "stripes"
    picture = run.original(data.index["path"][3])
    with pytest.raises(SingError, match="none of the run's pictures"):
        run.original("nowhere.png")
    out = run.classifier("Mine")(run.classifier("Mine").prepare(picture)[None])
    torch.testing.assert_close(out.features[0], data.f[3])  # another batch rounds otherwise
    again = own_run()
    monkeypatch.setattr(
        "sing_utils.runs.run.load_classifier", lambda *_, **__: pytest.fail("it was loaded again")
    )
    assert torch.equal(again.head("Mine").weight, head.weight)
    assert torch.equal(again.photos("Mine", "all").f, data.f)


def test_a_csv_of_labels_makes_a_run(own_run, tmp_path):
    paths = sorted(p.relative_to(tmp_path / "album").as_posix() for p in (tmp_path / "album").rglob("*.png"))
    rows = [f"{p},{'a' if i % 2 else 'b'},{'val' if i < 4 else 'train'}" for i, p in enumerate(paths)]
    (tmp_path / "album" / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    data = own_run(images="album/labels.csv").photos("Mine", "all")
    assert data.index["label"].tolist() == ["b", "a"] * 4
    assert data.index["evaluation"].tolist() == [True] * 4 + [False] * 4


def test_a_head_alone_needs_stored_features(own_run, tmp_path):
    own_run().photos("Mine", "all")
    own_run().head("Mine").save(tmp_path / "head.safetensors")
    [stored] = (tmp_path / "_build" / "features").glob("file-*")
    (tmp_path / "features").mkdir()
    stored.rename(tmp_path / "features" / "Mine")
    next((tmp_path / "_build" / "features").glob("embedded-*")).rename(tmp_path / "features" / "embedded")
    run = own_run(classifiers={"Mine": "head:head.safetensors"}, images=None, features="features")
    assert run.spaces("Mine").null_dim == 7
    assert len(run.photos("Mine", "all").f) == 8
    with pytest.raises(SingError, match=r"head.safetensors is a head without a network, expected one here"):
        run.classifier("Mine")


def test_a_head_of_another_network_is_refused(own_run, tmp_path):
    own_run().photos("Mine", "all")
    head = own_run().head("Mine")
    replace(head, sha256="0" * 64).save(tmp_path / "head.safetensors")
    run = own_run()
    run._kept["head", "Mine"] = LinearHead.load(tmp_path / "head.safetensors")
    with pytest.raises(SingError, match="the head of Mine is of the network 000000000000"):
        run.photos("Mine")


# --------------------------------------------------------------- what a review and a newcomer found


def own_file(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(textwrap.dedent(text))
    return f"file:{folder / 'mine.py'}:build"


def test_another_process_finds_the_store_of_ones_own_model(own_run, tmp_path):
    """Its transform is a function, whose text holds an address in memory."""
    spec = f"file:{tmp_path / 'mine.py'}:build"
    code = (
        "import sys; from sing_utils.models.classifiers import load_classifier; "
        "from sing_utils.features.extraction import extract; c = load_classifier(sys.argv[1]); "
        "extract(c, sys.argv[2], sys.argv[3], workers=0)"
    )
    for _ in range(2):
        command = [sys.executable, "-c", code, spec, str(tmp_path / "album"), str(tmp_path / "store")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-500:]


def test_ones_own_file_may_import_and_read_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = own_file(
        tmp_path / "models",
        """
        import torch
        import parts_of_mine

        def build():
            model = parts_of_mine.net()
            model[2].load_state_dict(torch.load("net.pth", weights_only=True))
            return model
        """,
    )
    (tmp_path / "models" / "parts_of_mine.py").write_text(
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
    )
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "models" / "net.pth")
    assert torch.equal(load_network(spec).model[2].weight, torch.ones(2, 3))
    (tmp_path / "models" / "net.pth").unlink()
    with pytest.raises(SingError, match=r"build\(\) stopped with FileNotFoundError: .*net.pth"):
        load_network(spec)


PROJECT = {
    "mine.py": """
        from my_project import Net, prepare

        def build():
            return Net(), prepare
        """,
    "my_project/__init__.py": """
        from .parts.net import Net
        from .parts.pictures import prepare
        """,
    "my_project/parts/__init__.py": "",
    "my_project/parts/net.py": """
        from importlib import resources
        import torch
        from torch import nn
        from settings import POWER

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.body, self.head = nn.Linear(3, 7), nn.Linear(7, 2)
                self.power = float(resources.files("my_project").joinpath("power.txt").read_text())
                self.register_buffer("mean", torch.zeros(3), persistent=False)
                self.more = [nn.Linear(7, 7)]

            def forward(self, images):
                from late import change
                f = self.body(images.mean((2, 3)) - self.mean) ** POWER
                return self.head(change(self.more[0](f)) ** self.power)
        """,
    "my_project/parts/pictures.py": """
        import torchvision.transforms as V

        def prepare(image):
            return V.Compose([V.Resize((8, 8)), V.ToTensor()])(image)
        """,
    "my_project/power.txt": "1",
    "settings.py": "POWER = 2",
    "late.py": "def change(x): return x",
    "unrelated.py": "",
}


def project(folder, changes=()):
    for name, text in (PROJECT | dict(changes)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return f"file:{folder / 'mine.py'}:build"


def replaced(file, old, new):
    assert old in PROJECT[file]
    return {file: PROJECT[file].replace(old, new)}


@pytest.mark.parametrize(
    "changes",
    [
        replaced("my_project/parts/pictures.py", "(8, 8)", "(9, 9)"),
        replaced("my_project/parts/net.py", "- self.mean", "+ 1"),
        replaced("settings.py", "2", "3"),  # imported by a module below
        replaced("late.py", "return x", "return x + 1"),  # imported when the network is called
        replaced("my_project/power.txt", "1", "3"),  # a plain attribute, from no Python file
        replaced("my_project/parts/net.py", "zeros(3)", "ones(3)"),  # a buffer that is not saved
        replaced("my_project/parts/net.py", "[nn.Linear(7, 7)]", "[nn.Linear(7, 7).double().float()]"),
    ],
)
def test_features_are_new_where_any_code_or_state_is(tmp_path, changes):
    before = load_classifier.__wrapped__(project(tmp_path / "a")).identity
    again = load_classifier.__wrapped__(project(tmp_path / "b")).identity
    assert before | {"name": ""} == again | {"name": ""}  # of one code, wherever it lies
    project(tmp_path / "a", {"unrelated.py": "X = 1"})
    assert load_classifier.__wrapped__(project(tmp_path / "a")).identity == before
    now = load_classifier.__wrapped__(project(tmp_path / "a", changes)).identity
    assert now["library"] != before["library"]


@pytest.mark.parametrize("how", ["importlib.import_module(name)", "__import__(name)"])
def test_code_that_is_imported_by_a_computed_name_counts(tmp_path, how):
    text = f"import importlib\ndef build():\n    name = 'la' + 'te'\n    {how}\n    raise KeyError"
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "late.py").write_text("A = 1")
    before = code_digest(tmp_path / "mine.py")
    (tmp_path / "late.py").write_text("A = 2")
    assert code_digest(tmp_path / "mine.py") != before


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.mean.add_(1),  # a buffer that is not saved
        lambda net: net.more[0].weight.data.add_(1),  # a layer in a list, which is not saved either
        lambda net: net.sizes["a"].append(3),
    ],
)
def test_state_that_neither_code_nor_saved_weights_hold_counts(change):
    net = torch.nn.Linear(2, 2)
    net.register_buffer("mean", torch.zeros(2), persistent=False)
    net.more, net.sizes = [torch.nn.Linear(2, 2)], {"a": [2]}
    weights, before = weights_digest(net), state_digest(net)
    assert state_digest(net) == before
    change(net)
    assert weights_digest(net) == weights
    assert state_digest(net) != before


def test_another_version_of_a_library_is_other_code(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import numpy")
    before = code_digest(tmp_path / "mine.py")
    monkeypatch.setattr("sing_utils.models.own_files.version", lambda name: f"next {name}")
    assert code_digest(tmp_path / "mine.py") != before


def test_two_folders_with_modules_of_one_name_are_kept_apart(tmp_path):
    """The second model imports its own `settings`, not the first one's, and so does the first one again."""
    a, b = project(tmp_path / "a"), project(tmp_path / "b", replaced("settings.py", "2", "3"))
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    first, second, again = (load_classifier.__wrapped__(spec)(x).features for spec in (a, b, a))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)


def test_each_of_them_also_imports_its_own_when_it_is_called(tmp_path):
    of_transform = replaced("my_project/parts/pictures.py", "return V", "from later import S; return S * V")
    a = project(tmp_path / "a", of_transform | {"later.py": "S = 1"})
    b = project(
        tmp_path / "b", of_transform | {"later.py": "S = 2"} | replaced("late.py", "return x", "return 2 * x")
    )
    x, picture = torch.ones(1, 3, 4, 4), Image.new("RGB", (9, 9), "white")
    one, two = (load_classifier.__wrapped__(spec) for spec in (a, b))
    for _ in range(2):
        torch.testing.assert_close(two(x).features, 2 * one(x).features)
        assert torch.equal(two.prepare(picture), 2 * one.prepare(picture))


def test_a_layer_may_hold_its_parent(tmp_path):
    text = f"model = {NET}; model[2].parent = [model]; return model"
    assert load_network(returned(tmp_path, text)).library


@pytest.mark.parametrize(
    "file", ["my_project/parts/net.py", "my_project/power.txt", "weights/net.pth", "late.py"]
)
def test_what_a_run_knows_to_have_changed(own_run, tmp_path, file):
    """Below the model's file too, so that a run does not call itself unchanged; nor its notes its own."""
    (tmp_path / "sing_utils").mkdir()
    spec = project(tmp_path / "m")
    run = own_run(classifiers={"Mine": spec})
    before, note, head = _inputs_key(tmp_path, run.profile, {}), run._of_pictures("Mine"), run.head("Mine")
    (tmp_path / "m" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "m" / file).write_text(PROJECT.get(file, "") + "\n")
    assert _inputs_key(tmp_path, run.profile, {}) != before
    assert run._of_pictures("Mine") != note
    (heads,) = {p.parent for p in (run.folder / "artifacts" / "heads").iterdir()}
    again = own_run(classifiers={"Mine": spec})
    assert torch.equal(again.head("Mine").weight, head.weight)
    assert len(list(heads.iterdir())) == 2  # it was asked of the network again


def test_force_means_features_too(own_run, tmp_path):
    run = own_run()
    store = run.store("Mine").path
    other = own_run(per_class=1).store("Mine").path
    _forget_models(run.folder, "key", None)
    assert store.exists()
    run.store("Mine")
    _forget_models(run.folder, "key", run.feature_cache)
    assert not store.exists()
    assert other.exists()  # another run's
    assert len(run.store("Mine")) == 8


NET = "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))"


def returned(folder, text):
    return own_file(folder, f"import sys\nimport torch\nfrom torch import nn\ndef build():\n    {text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"return torch.jit.trace({NET}, torch.zeros(1, 3, 2, 2))", "TorchScript.*load the script's state_"),
        ("return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))", r"no values .such as 1\.weight"),
        ("sys.exit('set DATA first')", "stopped with SystemExit: set DATA first"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_network_with_weights_is_refused(tmp_path, text, message):
    with pytest.raises(SingError, match=message):
        load_network(returned(tmp_path, text))


@pytest.mark.parametrize("part", [NET, "nn.Linear(3, 2)"])
def test_a_compiled_network_is_the_same_each_time(tmp_path, part):
    """torch.compile keeps in a module what is another at each call, and may leave hooks uncalled."""
    spec = returned(tmp_path, f"return {NET.replace(part, f'torch.compile({part})')}")
    one, other = load_network(spec), load_network(spec)
    assert one.library == other.library
    assert not [name for name in one.model.state_dict() if "_orig_mod" in name]


def test_what_a_builder_sets_for_everybody_is_set_back(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sing", "extract", "--classifier"])
    text = (
        "assert len(sys.argv) == 1; torch.set_default_dtype(torch.float64); torch.set_default_device('meta')"
    )
    load_network(returned(tmp_path, f"model = {NET}\n    {text}\n    return model, lambda image: 0"))
    assert sys.argv == ["sing", "extract", "--classifier"]
    assert torch.zeros(1).dtype == torch.float32
    assert torch.zeros(1).device.type == "cpu"


def test_labels_must_be_as_many_as_classes(tmp_path):
    spec = own_file(tmp_path, OWN.replace('["stripes", "disc"]', '["stripes", "disc", "both"]'))
    with pytest.raises(SingError, match="has 3 labels for 2 classes, expected one each"):
        load_classifier.__wrapped__(spec)


def test_code_in_a_repository_is_not_run(tmp_path):
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    code = f"from sing_utils.models.networks import load_network; load_network('hf:{tmp_path}')"
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 9, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert not (tmp_path / "ran").exists()


def test_a_run_notices_other_pictures_at_once(own_run, tmp_path):
    assert own_run().store("Mine").index["label"].nunique() == 2
    generate_pictures(tmp_path / "other", ["disc", "stripes", "more"])
    assert own_run(images="other").store("Mine").index["label"].nunique() == 3
    (tmp_path / "album" / "fit" / "disc" / "00.png").unlink()
    assert len(own_run().store("Mine")) == 7


def test_a_rehearsal_makes_its_own_pictures_whatever_was_given(root, tmp_path):
    loaded = load_profile("laptop", root=root, images="album")
    given = rehearsal_parameters(tmp_path, loaded) | {
        k: v for k, v in {"images": "album", "seed": 3}.items() if k not in GENERATED
    }
    rehearsed = load_profile("laptop", root=root, **given)
    assert rehearsed.images != "album"
    assert rehearsed.seed == 3


def test_an_encoder_of_ones_own_is_found_from_the_checkout(root, tmp_path, monkeypatch):
    (tmp_path / "data" / "profiles").mkdir(parents=True)
    (tmp_path / "clip").mkdir()
    values = {
        "name": "x",
        "classifiers": ["efficientnet_lite0"],
        "concepts": ["a", "b"],
        "encoder": "karlo:clip",
    }
    (tmp_path / "data" / "profiles" / "x.yaml").write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path / "data")
    assert load_profile("x", root=tmp_path).encoder == f"karlo:{tmp_path / 'clip'}"


def test_a_picture_that_would_start_a_program_is_rejected():
    with pytest.raises(UnreadableError, match="cannot identify"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
