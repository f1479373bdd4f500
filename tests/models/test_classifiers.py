"""Classifiers: golden files, the identity W f + b = logits, and weights that are checked."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torchvision import transforms as V

from sing_utils import HeadSpaces, SingError
from sing_utils.models import networks as model_sources
from sing_utils.models.classifiers import Classifier, load_classifier
from sing_utils.models.networks import Network, imagenet_classes, imagenet_labels
from sing_utils.models.weights import signs_of, weights_digest

GOLDEN = Path(__file__).parents[1] / "tools" / "golden"


def synthetic():
    """A picture that is a formula, so that it needs no file and no decoder: (1, 3, 224, 224)."""
    i = torch.arange(224, dtype=torch.float64)
    waves = [torch.sin(i[:, None] / (5.0 + k)) * torch.cos(i[None] / (9.0 - k)) for k in range(3)]
    return torch.stack(waves)[None].float()


def chelsea():
    import skimage.data

    return Image.fromarray(skimage.data.chelsea())  # decoded from the PNG inside the wheel


@pytest.fixture(scope="module")
def lite0():
    return load_classifier("efficientnet_lite0")


# ------------------------------------------------------------------------------- golden


@pytest.mark.parametrize(
    ("what", "tolerance"),
    [
        ("synthetic", 1e-4),  # the same arithmetic everywhere, up to the order of sums
        ("chelsea", 2e-2),  # Pillow's resampling may round otherwise in another release
    ],
)
def test_golden(lite0, what, tolerance):
    expected = load_file(GOLDEN / f"efficientnet_lite0_{what}.safetensors")
    images = synthetic() if what == "synthetic" else lite0.prepare(chelsea())[None]
    out = lite0(images)
    for name, got in (("features", out.features), ("logits", out.logits)):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(got, expected[name], rtol=0, atol=tolerance * scale)


def test_names_and_wnids_follow_the_logits():
    assert (next(iter(imagenet_classes())), imagenet_labels()[0]) == ("n01440764", "tench")
    assert imagenet_labels()[281:286] == ("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat")
    assert len({x.lower() for x in imagenet_labels()}) == len(imagenet_classes()) == 1000


def test_the_identity_holds_on_real_input(lite0):
    out = lite0(torch.cat([synthetic(), synthetic().flip(-1)]))
    assert out.features.shape == (2, 1280)
    assert out.logits.shape == (2, 1000)
    again = lite0.head.logits(out.features)
    torch.testing.assert_close(again, out.logits, rtol=0, atol=1e-4)
    assert lite0.head.identity_error == lite0.identity_error <= 1e-5
    assert not lite0.head.weight.requires_grad
    assert not lite0.model.training


def test_extracting_is_the_same_forward_pass(lite0):
    image = chelsea()
    batch = lite0.prepare(image)[None]
    assert torch.equal(lite0.compute(batch)["features"], lite0(batch).features)
    assert set(lite0.identity) == {"name", "weights", "transform", "library"}
    assert lite0.identity["library"] == f"timm {version('timm')}"
    assert lite0.identity["weights"] == lite0.sha256


# -------------------------------------------------------------------------- tiny models


class Tiny(nn.Module):
    """Three pooled colours -> 2 features -> 4 classes; what follows the head is a parameter."""

    def __init__(self, after=lambda x, y: y, *, calls=1, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 2), nn.Linear(2, 4, bias=bias)
        self.after, self.calls = after, calls

    def forward(self, images):
        x = self.body(images.mean((2, 3)))
        for _ in range(self.calls):
            y = self.head(x)
        return self.after(x, y)


def of(model, transform=lambda image: torch.zeros(3, 4, 4), name="mine"):
    return Classifier.of(name, Network(model.eval(), transform, None, "0" * 64, "ours 1"))


def tiny(*args, **options):
    return of(Tiny(*args, **options), name="tiny")


def spoil_input(x, y):
    x.mul_(0).add_(7)  # in place, after the head has read it
    return y


def test_features_are_copied_before_an_in_place_operation_changes_them():
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    plain, spoiled = tiny(), tiny(spoil_input)
    assert torch.equal(spoiled(images).features, plain(images).features)
    assert spoiled.identity_error < 1e-6


def test_a_head_without_bias_has_a_zero_bias():
    classifier = tiny(bias=False)
    assert torch.equal(classifier.head.bias, torch.zeros(4))
    assert torch.equal(tiny().head.bias, tiny().layer.bias.detach())


@pytest.mark.parametrize(
    "after",
    [
        lambda x, y: 0 * y,
        lambda x, y: y.relu(),
        lambda x, y: y + 5e-4 * y.abs(),
        lambda x, y: y / y.norm(dim=-1, keepdim=True),
        lambda x, y: 16 * functional.normalize(x) @ functional.normalize(torch.ones(2, 4), dim=0),
        lambda x, y: (y + x.sum(-1, keepdim=True)).softmax(-1) + y,
    ],
    ids=["zero", "relu", "slight bend", "unit", "functional cosine", "mixed"],
)
def test_a_model_with_something_after_the_head_is_refused(after):
    found = r"tiny ends in no linear head: its 4 logits are not .* \(body \(3 to 2\), head \(2 to 4\)\)"
    with pytest.raises(SingError, match=found):
        tiny(after)


W_AND_B = {  # what follows the head -> what W and b of the whole are, given those of the layer
    "temperature": (lambda x, y: y / 1.7, lambda W, b: (W / 1.7, b / 1.7)),
    "negative": (lambda x, y: -2 * y, lambda W, b: (-2 * W, -2 * b)),
    "shortcut": (lambda x, y: y + x.sum(-1, keepdim=True), lambda W, b: (W + 1, b)),
    "adapter": (lambda x, y: y + x @ ADAPTER.mT, lambda W, b: (W + ADAPTER, b)),
    "calibrated": (lambda x, y: y * SCALE + 1, lambda W, b: (SCALE[:, None] * W, SCALE * b + 1)),
    "centred": (lambda x, y: y - y.mean(-1, keepdim=True), lambda W, b: (W - W.mean(0), b - b.mean())),
}
ADAPTER = torch.tensor([[1.0], [0.0], [2.0], [-1.0]]) @ torch.tensor([[0.5, -1.0]])
SCALE = torch.tensor([1.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("what", W_AND_B)
def test_what_is_still_linear_after_the_head_is_looked_through(what):
    after, expected = W_AND_B[what]
    classifier = tiny(after)
    W, b = expected(*(x.detach() for x in (classifier.layer.weight, classifier.layer.bias)))
    torch.testing.assert_close(classifier.head.weight, W)
    torch.testing.assert_close(classifier.head.bias, b)
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    out = classifier(images)
    assert torch.equal(out.features, tiny()(images).features)
    torch.testing.assert_close(classifier.head.logits(out.features), out.logits)


@pytest.mark.parametrize(
    ("after", "scale"),
    [
        (lambda x, y: y.softmax(-1), 1),
        (lambda x, y: y.log_softmax(-1), 1),
        (lambda x, y: y.sigmoid(), 1),
        (lambda x, y: (y / 4).softmax(-1), 0.25),
        (lambda x, y: (3 * y).log_softmax(-1), 3),
    ],
    ids=["softmax", "log-softmax", "sigmoid", "softmax with a temperature", "log-softmax with one"],
)
def test_probabilities_are_those_of_the_heads_logits(after, scale):
    classifier, plain = tiny(after), tiny()
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(classifier.head.weight, scale * plain.head.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier(images).logits, scale * plain(images).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after(None, plain(images).logits), classifier.model(images))


@pytest.mark.parametrize("calls", [0, 2])
def test_a_head_must_be_called_once(calls):
    classifier = tiny()
    classifier.model.calls = calls
    classifier.model.after = lambda x, y: x.repeat(1, 2)
    if not calls:
        classifier.model.forward = lambda images: images.mean((2, 3))
    with pytest.raises(SingError, match=f"the head was called {calls} times in one pass, expected once"):
        classifier(torch.rand(2, 3, 4, 4))


def test_no_hook_is_left_behind():
    classifier = tiny()
    classifier(torch.rand(1, 3, 4, 4))
    assert not any(m._forward_pre_hooks for m in classifier.model.modules())
    with pytest.raises(RuntimeError):
        classifier(torch.rand(1, 5, 4, 4))
    assert not any(m._forward_pre_hooks for m in classifier.model.modules())


# ------------------------------------------------------- models and transforms as people have them


class Net(nn.Module):
    """Pictures of any size -> 6 features -> c classes; `way` returns the logits."""

    def __init__(self, classes=4, way=lambda y: y):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, classes)
        self.way = way

    def features(self, x):
        return self.norm(self.body(x)).relu().mean((2, 3))

    def forward(self, x):
        return self.way(self.head(self.features(x)))


def to_tensor(image):
    return torch.from_numpy(np.array(image.resize((8, 8)))).float().permute(2, 0, 1) / 255


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.float64])
def test_models_and_pictures_of_other_precision(dtype, given):
    classifier = of(Net().to(dtype), lambda image: to_tensor(image).to(given))
    out = classifier(classifier.prepare(Image.new("RGB", (9, 9), "red"))[None])
    assert out.features.dtype == torch.float32
    assert classifier.head.weight.dtype == (dtype if dtype.itemsize == 2 else torch.float32)
    torch.testing.assert_close(classifier.head.logits(out.features), out.logits, rtol=0, atol=1e-5)


def test_the_rank_of_a_head_in_16_bits_is_counted_as_it_was_stored():
    model = Net(40)
    model.head = nn.Linear(64, 40)
    model.body, model.norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)
    g = torch.Generator().manual_seed(0)
    model.head.weight.data = torch.randn(40, 5, generator=g) @ torch.randn(5, 64, generator=g)
    assert HeadSpaces.from_weight(of(model.half()).head.weight).rank == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("way", [lambda y: y / 1.7, lambda y: (y / 3).softmax(-1)])
def test_what_was_measured_is_not_rounded_to_16_bits(dtype, way):
    classifier = of(Net(way=way).to(dtype))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = classifier.head.logits(classifier(images).features)
    y = y.softmax(-1) if classifier.found.ending else y
    torch.testing.assert_close(y, classifier.model(images), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_a_quantised_layer_packs_count():
    def quantised(factor):
        model = nn.Sequential(nn.Linear(40, 40, bias=False))
        model[0].weight = nn.Parameter(factor * torch.eye(40), requires_grad=False)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})

    one, same, other = (weights_digest(quantised(factor)) for factor in (1, 1, 2))
    assert one == same != other
    assert len(signs_of(quantised(1)).split()) == 1


@pytest.mark.parametrize(
    ("way", "classes"),
    [
        (lambda y: y.squeeze(-1), 1),
        (lambda y: y.squeeze(), 1),  # a batch of one gives a number
        (lambda y: {"logits": y, "loss": None}, 4),
        (lambda y: SimpleNamespace(logits=y), 4),
    ],
    ids=["(B,)", "squeezed", "dict", "object"],
)
def test_ways_to_return_logits(way, classes):
    classifier = of(Net(classes, way))
    assert classifier.head.weight.shape == (classes, 6)
    assert classifier(torch.rand(1, 3, 8, 8)).logits.shape == (1, classes)
    assert classifier(torch.rand(3, 3, 8, 8)).logits.shape == (3, classes)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        (lambda y: (y, y), "tuple"),
        (lambda y: {"out": y}, "out"),
        (lambda y: y.sum(), r"\(\)|shape"),
        (lambda y: y.numpy(), "ndarray"),
        (lambda y: y.no_such_thing, "no_such_thing"),
    ],
)
def test_other_answers_of_a_model_are_said(way, told):
    with pytest.raises(SingError, match=told):
        of(Net(way=way))


def poisoned(tensor, value):
    model = Net()
    model.state_dict()[tensor].view(-1)[0] = value
    return model


@pytest.mark.parametrize("tensor", ["head.weight", "head.bias", "norm.running_mean", "norm.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tensor, value):
    with pytest.raises(SingError, match=f"1 in {tensor}"):
        of(poisoned(tensor, value))


def test_an_attention_mask_may_be_infinite():
    model = Net()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    assert of(model).head.weight.shape == (4, 6)


GENERATOR = np.random.default_rng(0)
RANDOM = {
    "crop": V.Compose([V.RandomResizedCrop(8), V.ToTensor()]),
    "flip": V.Compose([V.Resize(8), V.RandomHorizontalFlip(), V.ToTensor()]),
    "seldom": V.Compose([V.Resize(8), V.RandomGrayscale(0.1), V.ToTensor()]),
    "own numbers": lambda image: to_tensor(image) + float(GENERATOR.random()),
    "another size": lambda image: torch.zeros(3, 8, int(torch.randint(8, 99, ()))),
}


@pytest.mark.parametrize("what", RANDOM)
def test_a_random_transform_is_refused(what):
    model, state = Net(), torch.get_rng_state()
    with pytest.raises(SingError, match="random"):
        of(model, RANDOM[what])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transform_that_draws_but_changes_nothing_is_taken():
    assert of(Net(), V.Compose([V.Resize(8), V.RandomHorizontalFlip(0.0), V.ToTensor()]))


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        (lambda image: to_tensor(image)[None], r"\(1, 3, 8, 8\)"),
        (lambda image: (255 * to_tensor(image)).to(torch.uint8), "uint8"),
        (lambda image: np.asarray(image), "ndarray"),
        (lambda image: {"image": image}, "dict"),
        (lambda image: image, "Image"),
        (lambda image: to_tensor(image) / 0, "NaN or infinity"),
        (lambda image: image["image"], "TypeError"),
        (lambda image: to_tensor(image)[:, :1, :1], r"\(3, 1, 1\)"),  # too small for the network
    ],
)
def test_other_transforms_are_answered(transform, told):
    with pytest.raises(SingError, match=told):
        of(Net(), transform)


class Dropped(Net):
    def features(self, x):
        return functional.dropout(super().features(x))  # on in evaluation too


class OfTheBatch(Net):
    def features(self, x):
        return super().features(functional.batch_norm(x, None, None, training=True))


@pytest.mark.parametrize("model", [Dropped, OfTheBatch])
def test_features_must_not_depend_on_chance_or_on_the_batch(model):
    with pytest.raises(SingError, match="alone"):
        of(model())


# ------------------------------------------------------------------------------ loading


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "ab" * 32}, r"SHA-256 579344248a93…, expected abababababab…"),
        ({"package": "no_such_package_here"}, "the package no-such-package-here is missing"),
        ({"architecture": "tf_efficientnet_lite1"}, "do not fit the architecture"),
    ],
)
def test_other_weights_are_refused(monkeypatch, changes, message):
    """Before they are read, if they are not the ones that are known."""
    entry = dataclasses.replace(model_sources.PACKAGED["efficientnet_lite0"], **changes)
    monkeypatch.setitem(model_sources.PACKAGED, "efficientnet_lite0", entry)
    if "architecture" not in changes:
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the weights were read"))
    with pytest.raises(SingError, match=message):
        load_classifier.__wrapped__("efficientnet_lite0")  # past the cache


def test_weights_are_read_without_pickled_code(monkeypatch):
    seen = {}

    def read(path, **options):
        seen.update(options)
        raise SingError("stop here")

    monkeypatch.setattr(torch, "load", read)
    with pytest.raises(SingError, match="stop here"):
        load_classifier.__wrapped__("efficientnet_lite0")
    assert seen["weights_only"] is True


def test_a_classifier_is_loaded_once_however_it_is_asked_for(lite0):
    assert load_classifier("efficientnet_lite0") is lite0
    assert load_classifier("efficientnet_lite0", rehearse=False) is lite0
    assert load_classifier(name="efficientnet_lite0") is lite0


def test_transform_is_the_checkpoints(lite0):
    """Inputs of the TensorFlow originals lie in [-1, 1]."""
    white, black = (lite0.prepare(Image.new("RGB", (300, 260), c)) for c in ("white", "black"))
    assert white.shape == (3, 224, 224)
    np.testing.assert_allclose([float(white.min()), float(black.max())], [1.0, -1.0], atol=1e-6)
