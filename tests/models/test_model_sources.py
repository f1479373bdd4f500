"""Classifiers by name: the paper's five, other libraries', one's own; and what is refused."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from pathlib import Path

import pytest
import timm
import torch
import yaml
from fakes import Evil
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from sing_utils import HeadSpaces, SingError
from sing_utils.models import networks as model_sources
from sing_utils.models.classifiers import Classifier, LinearHead, find_head, load_classifier
from sing_utils.models.networks import (
    Network,
    _short_names,
    files_of,
    imagenet_labels,
    load_network,
    own_labels,
    parse_source,
)
from sing_utils.models.weights import tensors_only, weights_digest

PUBLISHED = yaml.safe_load(
    (Path(__file__).parents[2] / "data" / "published" / "classifiers.yaml").read_text()
)


# --------------------------------------------------------------------- the paper's five


@pytest.mark.parametrize("name", ["ResNet50", "EfficientNet", "ResNeXt101", "BiTResNet"])
def test_the_papers_architectures_end_in_the_heads_it_analyses(name):
    entry = PUBLISHED["paper"][name]
    classifier = load_classifier.__wrapped__(entry["source"], rehearse=True)
    W = classifier.head.weight
    assert W.shape == (1000, entry["width"])
    assert HeadSpaces.from_weight(W).null_dim == entry["null_dimension"]
    assert classifier.prepare(Image.new("RGB", (600, 500))).shape == (3, entry["pixels"], entry["pixels"])
    assert classifier.head.label(1) == "goldfish"
    assert classifier.identity["library"].split()[0] == entry["source"].partition(":")[0]


class ClassToken(nn.Module):
    """The wrapper that the paper defines for its DINO-ViT (appendix E), in our words.

    The token sequence after the encoder's last norm, its class token, then the head.
    """

    def __init__(self, vit):
        super().__init__()
        self.tokens = create_feature_extractor(vit, {"encoder.ln": "tokens"})
        self.fc = vit.heads.head

    def forward(self, images):
        f = self.tokens(images)["tokens"][:, 0]
        return f, self.fc(f)


def test_the_papers_wrapper_is_a_case_of_ours():
    torch.manual_seed(0)
    vit = VisionTransformer(32, 8, 2, 4, 48, 96, num_classes=11).eval()
    nn.init.normal_(vit.heads.head.weight)
    classifier = Classifier.of("vit", Network(vit, lambda image: torch.zeros(3, 32, 32), None, "0", ""))
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        f, logits = ClassToken(vit)(images)
    out = classifier(images)
    assert torch.equal(out.features, f)
    assert torch.equal(out.logits, logits)
    assert torch.equal(classifier.head.weight, vit.heads.head.weight)


COUNTED = PUBLISHED["later"] | {"DINO-ViT": PUBLISHED["paper"]["DINO-ViT"]}


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_the_other_architectures_have_the_published_widths(name):
    """Counted, not computed: some have 300 million weights. DINOv2's configuration is on the hub."""
    entry = COUNTED[name]
    if name == "DINOv2-L":
        assert parse_source(entry["source"]).kind == "hf"
        return
    with torch.device("meta"):
        network = load_network(entry["source"], rehearse=True)
    linear = [x for x in network.model.modules() if isinstance(x, nn.Linear)]
    assert tuple(linear[-1].weight.shape) == (1000, entry["width"])
    assert entry["null_dimension"] == entry["width"] - 1000
    side = entry["pixels"]
    assert network.transform(Image.new("RGB", (600, 500))).shape == (3, side, side)
    assert name != "DINO-ViT" or network.model.image_size == side


# ------------------------------------------------------------------- finding any head


@pytest.mark.parametrize(
    ("spec", "width"),
    [
        ("timm:test_resnet", 96),
        ("timm:mobilenetv3_small_050", 1024),
        ("timm:test_vit", 64),
        ("timm:test_convnext", 64),
        ("timm:swin_tiny_patch4_window7_224", 768),
        ("timm:mixer_s32_224", 512),
        ("timm:efficientvit_b0", 1280),
        ("timm:mobilevit_xxs", 320),
        ("torchvision:mobilenet_v2", 1280),
        ("torchvision:shufflenet_v2_x0_5", 1024),
        ("torchvision:densenet121", 1024),
        ("torchvision:googlenet", 1024),
        ("torchvision:inception_v3", 2048),
        ("torchvision:maxvit_t", 512),
    ],
)
def test_heads_of_many_families(spec, width):
    classifier = load_classifier.__wrapped__(spec, rehearse=True)
    assert classifier.head.weight.shape == (1000, width)
    assert classifier.head.identity_error < 1e-5
    images = torch.stack([classifier.prepare(Image.new("RGB", (300, 200), c)) for c in ("red", "white")])
    out = classifier(images)
    assert out.features.shape == (2, width)
    torch.testing.assert_close(classifier.head.logits(out.features), out.logits, rtol=0, atol=1e-4)


def test_a_real_classifier_without_a_linear_head_is_refused():
    message = r"squeezenet1_1 ends in no linear head: its 1000 logits .*classifier.1 \(512 to 1000\)"
    with pytest.raises(SingError, match=message):
        load_classifier.__wrapped__("torchvision:squeezenet1_1", rehearse=True)


class Made(nn.Module):
    """A model of some layers; `way` says what it does with them and the pictures."""

    def __init__(self, way, **layers):
        super().__init__()
        self.way = way
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images):
        return self.way(self, images)


def pooled(after):
    """A 1 x 1 convolution before the pooling, as in fully convolutional classifiers."""
    layers = {"body": nn.Conv2d(3, 6, 3), "head": nn.Conv2d(6, 4, 1), "after": after}
    return Made(lambda m, x: m.after(m.head(m.body(x))).mean((2, 3)), **layers).eval()


def test_a_convolution_before_the_pooling_has_pooled_features():
    model = pooled(nn.Identity())
    classifier = Classifier.of("pooled", Network(model, lambda image: torch.zeros(3, 9, 9), None, "0", ""))
    images = torch.rand(2, 3, 9, 9)
    out = classifier(images)
    torch.testing.assert_close(out.features, model.body(images).mean((2, 3)))
    torch.testing.assert_close(classifier.head.logits(out.features), out.logits)


def test_what_follows_a_convolution_before_the_pooling_is_seen():
    with pytest.raises(SingError, match=r"ends in no linear head.*head \(6 to 4\)"):
        find_head(pooled(nn.ReLU()), torch.rand(2, 3, 9, 9))


@pytest.mark.parametrize("shared", [True, False])
def test_the_mean_of_two_heads_is_one_head_only_where_they_read_one_feature(shared):
    """Distilled transformers have two of two."""

    def way(m, images):
        x = images.mean((2, 3))
        return (m.one(x) + m.two(x if shared else images.amax((2, 3)))) / 2

    model, images = Made(way, one=nn.Linear(3, 5), two=nn.Linear(3, 5)).eval(), torch.rand(2, 3, 4, 4)
    if not shared:
        with pytest.raises(SingError, match=r"its 5 logits are not .*one \(3 to 5\), two \(3 to 5\)"):
            find_head(model, images)
        return
    found = find_head(model, images)
    torch.testing.assert_close(found.weight, ((model.one.weight + model.two.weight) / 2).detach())


def test_a_model_without_any_linear_layer_says_so():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SingError, match=r"its 3 logits are not .* \(it calls none\)"):
        find_head(model.eval(), torch.rand(2, 3, 4, 4))


def test_logits_are_one_row_a_picture():
    of_the_batch = Made(lambda _, x: x.mean((0, 2, 3)))
    with pytest.raises(SingError, match=r"shape \(3,\) for 2 pictures"):
        find_head(of_the_batch, torch.rand(2, 3, 4, 4))


# ------------------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["Washington, D.C.", "Washington, state"], ("Washington, D.C.", "Washington, state")),
        ([f"a, {i}" for i in range(1000)], tuple(f"a, {i}" for i in range(1000))),
        (ImageNetInfo("imagenet-1k").label_descriptions(), imagenet_labels()),
    ],
)
def test_labels_are_cut_at_a_comma_only_where_they_are_imagenets_synonyms(names, labels):
    assert _short_names(names) == labels


SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            ViTForImageClassification,
            ViTConfig(**SMALL, intermediate_size=32, id2label={0: "cat, kitty", 1: "owl"}),
        ),
        (
            ResNetForImageClassification,
            ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label={0: "cat", 1: "dog"}
            ),
        ),
        # Its head reads the class token and the mean of the others.
        (Dinov2ForImageClassification, Dinov2Config(**SMALL, id2label={0: "cat", 1: "dog"})),
    ],
    ids=["vit", "resnet", "dinov2"],
)
def test_a_folder_of_transformers(tmp_path, kind, config):
    torch.manual_seed(0)
    made = kind(config).eval()
    made.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    classifier = load_classifier.__wrapped__(f"hf:{tmp_path}")
    batch = classifier.prepare(Image.new("RGB", (50, 40), (200, 30, 90)))[None]
    assert batch.shape == (1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(batch).logits, made(batch).logits)
    assert classifier.head.label(0) == made.config.id2label[0]  # also with a comma
    assert classifier.identity["weights"] == weights_digest(classifier.model)
    assert "image_std" in classifier.identity["transform"]
    again = load_classifier.__wrapped__(f"hf:{tmp_path}", rehearse=True)
    assert again.sha256 != classifier.sha256


def small_resnet(folder, dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], **options)
    ResNetForImageClassification(config).to(dtype).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_folder_of_transformers_in_another_precision(tmp_path, dtype):
    spec = small_resnet(tmp_path, dtype, num_labels=4)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    classifier = load_classifier.__wrapped__(spec)
    assert classifier.head.weight.dtype == dtype
    assert classifier(torch.zeros(1, 3, 32, 32)).features.dtype == torch.float32


def test_a_missing_preprocessor_is_no_matter_of_weights(tmp_path):
    with pytest.raises(SingError, match="has no preprocessor_config.json"):
        load_network(small_resnet(tmp_path))


@pytest.mark.parametrize("lost", ["classifier.", "encoder.stages.1.", ""])
def test_weights_that_transformers_would_draw_at_random_are_refused(tmp_path, lost):
    """Such as of a backbone that was saved without a head, or under DataParallel."""
    spec = small_resnet(tmp_path, num_labels=4)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert any(lost in name for name in weights)
    kept = {f"module.{k}" if not lost else k: x for k, x in weights.items() if not lost or lost not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SingError, match=rf"holds no weights for \d+ tensors .*{lost}"):
        load_network(spec)


def test_a_folder_that_lacks_a_shard_is_not_a_matter_of_the_network(tmp_path):
    spec = small_resnet(tmp_path, num_labels=4)
    index = {"metadata": {}, "weight_map": {"classifier.1.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SingError, match=r"can't be loaded .*model-00001-of-00002"):
        load_network(spec)


@pytest.mark.parametrize("kind", ["hf:", "timm:local-dir:"])
def test_a_folder_of_timms_own(tmp_path, kind):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3)
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": ["cat", "dog", "owl"]})
    network = load_network(f"{kind}{tmp_path}")
    assert weights_digest(network.model) == weights_digest(model)
    assert network.labels == ("cat", "dog", "owl")
    assert files_of(f"{kind}{tmp_path}") == sorted(p for p in tmp_path.iterdir())
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    (tmp_path / "pytorch_model.bin").unlink(missing_ok=True)
    with pytest.raises(SingError, match="can't be loaded"):
        load_network(f"{kind}{tmp_path}")


@pytest.mark.parametrize("held", ["{}", '{"architecture": "resnet18", "model_type": "timm_wrapper"}'])
def test_no_folder_of_timms(tmp_path, held):
    """The second is how transformers saves a network of timm, under names of its own."""
    (tmp_path / "config.json").write_text(held)
    with pytest.raises(SingError, match="expected one that timm.models.save_for_hf wrote"):
        parse_source(f"timm:local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("held", "labels"),
    [('{"1": "dog", "0": "cat"}', ("cat", "dog")), ("5", None), ('"ab"', None), ("[]", None)],
)
def test_labels_in_the_header_of_a_head(tmp_path, held, labels):
    save_file({"weight": torch.ones(2, 3)}, tmp_path / "h.safetensors", metadata={"labels": held})
    assert LinearHead.load(tmp_path / "h.safetensors").labels == labels


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cat", "dog"}, "labels are a set"),  # without an order
        ({1: "cat", 2: "dog"}, "labels are numbered"),
        ({"cat": 0, "dog": 2}, "labels are numbered"),
        ({"cat": "dog"}, "labels are numbered"),
    ],
)
def test_labels_without_an_order_are_refused(given, message):
    with pytest.raises(SingError, match=message):
        own_labels(given)
    assert own_labels(dict.fromkeys(["cat", "dog"]).keys()) == ("cat", "dog")


def test_another_task_of_transformers_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SingError, match="is no image classifier of transformers"):
        load_network(f"hf:{tmp_path}")


# ------------------------------------------------------------------------------ one's own

OWN = """
    import torch
    from torch import nn

    def build():
        torch.manual_seed(3)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7), nn.Linear(7, 2))
        model.labels = ["good", "bad"]
        return model, lambda image: torch.full((3, 5, 5), image.width / 100)

    def number():
        return 3

    def program():
        return torch.jit.script(build()[0])

    def blank():
        with torch.device("meta"):
            return build()[0]

    def lazy():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))

    def script():
        raise SystemExit(2)

    def compiled():
        model, transform = build()
        model = torch.compile(model.eval().requires_grad_(False), backend="eager")
        with torch.inference_mode():
            model(torch.zeros(2, 3, 5, 5))
        return model, transform

    def inside():
        model, transform = compiled()
        return nn.Sequential(model), transform

    def in_place():
        model, transform = build()
        model.eval().requires_grad_(False).compile(backend="eager")
        with torch.inference_mode():
            model(torch.zeros(2, 3, 5, 5))
        return model, transform

    def parallel():
        model, transform = build()
        wrapped = nn.DataParallel(model)
        wrapped.labels = model.__dict__.pop("labels")
        return wrapped, transform

    def traced():
        model, transform = build()
        return torch.fx.symbolic_trace(nn.Sequential(*[nn.ReLU() for _ in range(400)], *model)), transform
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(OWN))
    return path


def test_ones_own_file(own):
    classifier = load_classifier.__wrapped__(f"file:{own}:build")
    assert classifier.head.weight.shape == (2, 7)
    assert classifier.head.label(1) == "bad"
    assert classifier.prepare(Image.new("RGB", (50, 9)))[0, 0, 0] == 0.5
    assert HeadSpaces.from_weight(classifier.head.weight).null_dim == 5
    before = classifier.identity
    own.write_text(own.read_text() + "\n# changed\n")
    assert load_classifier.__wrapped__(f"file:{own}:build").identity != before


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("number", "number.* returned a int, expected a torch module"),
        ("nothing", "defines no function 'nothing'"),
        ("program", "TorchScript"),
        ("blank", "weights have no values"),
        ("lazy", "weights have no values"),
        ("script", "stopped with SystemExit"),
    ],
)
def test_a_file_without_a_model_says_so(own, function, message):
    with pytest.raises(SingError, match=message):
        load_network(f"file:{own}:{function}")


@pytest.mark.parametrize("function", ["compiled", "inside", "in_place", "parallel", "traced"])
def test_a_module_in_a_wrapper_is_the_module(own, function):
    plain, found = (load_classifier.__wrapped__(f"file:{own}:{f}") for f in ("build", function))
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(x).features, plain(x).features)
    assert found.head.weight.equal(plain.head.weight)
    if function == "parallel":
        assert found.labels == plain.labels


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SingError, match=r"mine\.py is no file, expected the Python file that defines build"):
        load_network(f"file:{tmp_path / 'mine.py'}:build")


# ------------------------------------------------------------------------------ spelling


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet5O", "unknown timm model .*did you mean 'resnet50'"),
        ("timm:resnet18.a1_in1", "unknown timm weights .*did you mean 'resnet18.a1_in1k'"),
        ("torchvision:resnet51", "unknown torchvision model .*did you mean 'resnet50'"),
        ("torchvision:resnet50@IMAGENET1K_V9", "expected one of DEFAULT, IMAGENET1K_V1.*mean 'IMAGENET1K_V"),
        ("keras:resnet50", "unknown classifier 'keras:resnet50', expected timm:NAME, torchvision:NAME"),
        ("timm:", "unknown classifier 'timm:'"),
        ("", "unknown classifier ''"),
        ("resnet50", "write torchvision:resnet50"),
        ("resnet18.a1_in1k", "write timm:resnet18.a1_in1k"),
        ("mine.py", "write file:mine.py:FUNCTION"),
        ("file:mine.py", "names no function"),
        ("efficientnet_lite9", "or timm:, torchvision:, hf:, file: .*did you mean 'efficientnet_lite"),
        ("effnet_lite2", "did you mean '.*efficientnet_lite2"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(spec, message):
    with pytest.raises(SingError, match=message):
        parse_source(spec)


@pytest.mark.parametrize(
    "spec", ["timm:resnet18.a1_in1k", "torchvision:squeezenet1_1", "hf:somebody/something@main"]
)
def test_weights_that_are_not_here_name_the_cache_and_the_command(spec, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(SingError, match=f"the weights of {spec} are not in .*: run `sing fetch --classifier"):
        load_network(spec)


# -------------------------------------------------------------------------------- safety


def test_a_checkpoint_that_runs_code_is_refused_before_it_does(tmp_path):
    torch.save({"weight": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(SingError, match="the checkpoint of it holds more than tensors"), tensors_only("it"):
        torch.load(tmp_path / "evil.pth", weights_only=False)  # as some libraries do
    assert not (tmp_path / "ran").exists()
    with open(tmp_path / "evil.pth", "rb"):
        torch.load(tmp_path / "evil.pth", weights_only=False)  # the test's own proof that it is one
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (argparse.Namespace(lr=1), "Namespace"),
        (nn.Linear(2, 2), "Linear"),
        (Path("a"), "Path"),
        (object, "object"),
    ],
)
def test_the_class_that_a_checkpoint_holds_is_named(tmp_path, held, named):
    torch.save({"args": held}, tmp_path / "x.pth")
    with pytest.raises(SingError, match=named) as told, tensors_only("it"):
        torch.load(tmp_path / "x.pth", weights_only=False)
    assert "\x1b" not in str(told.value)
    assert "[1m" not in str(told.value)
    assert "add_safe_globals" not in str(told.value)  # it is no file of one's own, where one could call it


LOADS = """
import argparse
import torch
from torch import nn

def build():
    held = torch.load("x.pth")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model[2].load_state_dict(held["state_dict"])
    return model
"""


def test_a_class_that_one_trusts_may_be_allowed_as_the_message_says(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    (tmp_path / "mine.py").write_text(LOADS)
    with pytest.raises(SingError) as told:
        load_network(f"file:{tmp_path / 'mine.py'}:build")
    call = re.search(r"torch\.serialization\.add_safe_globals\(\S+\)", str(told.value))[0]
    (tmp_path / "mine.py").write_text(LOADS.replace("    held", f"    {call}\n    held"))
    with torch.serialization.safe_globals([]):  # and nothing stays allowed
        network = load_network(f"file:{tmp_path / 'mine.py'}:build")
    assert torch.equal(network.model[2].weight, state["weight"])


def test_a_function_is_not_offered_to_be_allowed(tmp_path):
    torch.save({"weight": Evil(tmp_path / "ran"), "e": exec}, tmp_path / "x.pth")
    (tmp_path / "mine.py").write_text(LOADS)
    with pytest.raises(SingError, match="holds more than tensors") as told:
        load_network(f"file:{tmp_path / 'mine.py'}:build")
    assert "add_safe_globals" not in str(told.value)


@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1\noid x", "<!DOCTYPE html>"])
def test_a_text_in_a_checkpoints_place_is_no_matter_of_trust(tmp_path, text):
    (tmp_path / "x.pth").write_text(text)
    (tmp_path / "mine.py").write_text(LOADS)
    with pytest.raises(SingError, match=r"not written by torch\.save.*git lfs pull"):
        load_network(f"file:{tmp_path / 'mine.py'}:build")


def test_torchvision_weights_in_the_cache_are_not_trusted_either(tmp_path, monkeypatch):
    """The cache's file is not checked again by torch: its name is enough for it."""
    (tmp_path / "checkpoints").mkdir()
    torch.save(Evil(tmp_path / "ran"), tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SingError, match="holds more than tensors"):
        load_network("torchvision:squeezenet1_1")
    assert not (tmp_path / "ran").exists()


# ----------------------------------------------------------------------------- heads alone


def test_a_head_comes_back_as_it_was_saved(tmp_path):
    head = LinearHead(torch.rand(3, 5), torch.rand(3), ("a", "b", "c"), "ab" * 32, 2e-7)
    head.save(tmp_path / "head.safetensors")
    again = LinearHead.load(tmp_path / "head.safetensors")
    assert torch.equal(again.weight, head.weight)
    assert torch.equal(again.bias, head.bias)
    assert (again.labels, again.sha256, again.identity_error) == (head.labels, head.sha256, 2e-7)
    save_file({"weight": torch.ones(2, 4)}, tmp_path / "bare.safetensors")
    bare = LinearHead.load(tmp_path / "bare.safetensors")
    assert torch.equal(bare.bias, torch.zeros(2))
    assert bare.label(1) == "class 1"


NO_HEAD = r"x.safetensors holds no head .*`weight` \(c, m\)"


@pytest.mark.parametrize(
    ("tensors", "labels", "message"),
    [
        ({"w": torch.ones(2, 4)}, "null", NO_HEAD),
        ({"weight": torch.ones(4)}, "null", NO_HEAD),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(3)}, "null", NO_HEAD),
        ({"weight": torch.ones(2, 4)}, '["a", "b", "c"]', "3 labels for 2 classes"),
    ],
)
def test_what_is_no_head_is_refused(tmp_path, tensors, labels, message):
    save_file(tensors, tmp_path / "x.safetensors", metadata={"labels": labels})
    with pytest.raises(SingError, match=message):
        LinearHead.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["./mine", "/nowhere/mine", "~/mine", "a/b/c", "mine/", "..\\mine"])
def test_a_mistyped_folder_is_said_at_once(name, monkeypatch):
    monkeypatch.setattr(model_sources, "HfApi", lambda: pytest.fail("nobody is asked"))
    with pytest.raises(SingError, match="is no folder, expected"):
        load_network(f"hf:{name}")


@pytest.mark.parametrize("name", ["mine", "owner/mine", "owner/mine@v1"])
def test_a_repository_is_asked_for_once(name, monkeypatch):
    asked = []

    class Api:
        def model_info(self, name, *, revision, timeout):
            asked.append((name, revision))
            raise ConnectionError("no network")

    monkeypatch.setattr(model_sources, "HfApi", Api)
    with pytest.raises(SingError, match=r"no network.*check the name"):
        load_network(f"hf:{name}")
    assert asked == [(name.partition("@")[0], "v1" if "@" in name else None)]
