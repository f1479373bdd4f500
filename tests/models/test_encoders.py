"""The embedded encoder, and the rule that no classifier is judged on its own features."""

import shutil

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sing_utils.errors import SingError
from sing_utils.features.extraction import extract
from sing_utils.models import minilm
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.encoders import EMBEDDED_WEIGHTS, load_embedded, load_encoder
from sing_utils.models.judges import Judge, is_tower_of
from sing_utils.models.weights import signs_of

TOWERS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TEXTS = ["a cat", "a rocket", "a cup of coffee"]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded")


@pytest.fixture(scope="module")
def pictures():
    data = pytest.importorskip("skimage.data")
    return [Image.fromarray(getattr(data, name)()) for name in ("chelsea", "rocket", "coffee")]


@pytest.fixture(scope="module")
def z(encoder, pictures):
    return encoder.encode_images(pictures)


@pytest.fixture(scope="module")
def store(encoder, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "pictures").mkdir()
    for i, picture in enumerate(pictures):
        picture.save(folder / "pictures" / f"{i}.png")
    return extract(encoder, folder / "pictures", folder / "store", workers=0, progress=False)


def unit(x):
    return torch.allclose(x.norm(dim=-1), torch.ones(len(x)), atol=1e-5)


def test_pictures_and_texts_are_unit_vectors_of_the_stated_width(encoder, z):
    t = encoder.encode_text(TEXTS)
    assert z.shape == t.shape == (3, encoder.dim)
    assert unit(z)
    assert unit(t)
    assert encoder.towers == TOWERS
    assert (z @ t.mT).argmax(1).tolist() == [0, 1, 2]  # each picture is nearest to its own text


def test_what_all_texts_share_is_taken_off(encoder):
    centred = minilm.embed_minilm(TEXTS) - encoder.text_mean
    cosine = torch.cosine_similarity(encoder.encode_text(TEXTS), centred @ encoder.text_weight.mT)
    assert cosine.min() > 1 - 1e-5


def test_a_batch_equals_singles(encoder, pictures, z):
    singles = torch.cat([encoder.encode_images([p]) for p in pictures])
    assert (z - singles).abs().max() < 1e-5
    with pytest.raises(SingError, match="at least one"):
        encoder.encode_images([])


def test_a_text_does_not_depend_on_its_neighbours(encoder):
    fresh = load_embedded()
    long = "a tiny dog that runs along a very long beach in the evening, seen from far away"
    both = encoder.encode_text(["a zebra", long])
    minilm._load().seen.clear()
    assert (fresh.encode_text(["a zebra"]) - both[:1]).abs().max() < 1e-5


def test_grey_and_transparent_pictures_work(encoder):
    pictures = [Image.new("L", (70, 50), 90), Image.new("RGBA", (40, 60), (9, 9, 9, 99))]
    assert unit(encoder.encode_images(pictures))


def test_embedding_stored_features_equals_running_the_tower(encoder, pictures):
    classifier = load_classifier(TOWERS[0])
    x = torch.stack([classifier.prepare(p) for p in pictures])
    of_features = encoder.embed_features(TOWERS[0], classifier(x).features)
    of_pictures = encoder.only(TOWERS[0]).encode_images(pictures)
    assert (of_features - of_pictures).abs().max() < 1e-5


def test_combine_weighs_directions_not_lengths(encoder, store):
    parts = {t: store.read(t) for t in TOWERS}
    longer = parts | {TOWERS[0]: 7 * parts[TOWERS[0]]}
    assert (encoder.combine(longer) - encoder.combine(parts)).abs().max() < 1e-6


# ------------------------------------------------------------------------- judges


@pytest.mark.parametrize("name", [*TOWERS, "resnet50"])
def test_a_judge_lacks_exactly_its_classifiers_tower(encoder, name):
    judge = encoder.judge_of(name)
    assert judge.encoder.towers == tuple(t for t in TOWERS if t != name)
    assert judge.classifier == name


@pytest.mark.parametrize("name", [TOWERS[1], "tf_efficientnet_lite1.in1k", "EfficientNet-Lite1"])
def test_no_judge_with_the_own_tower_can_be_made(encoder, name):
    with pytest.raises(SingError, match="is the judged classifier"):
        Judge(name, encoder)
    with pytest.raises(SingError, match="is the judged classifier"):
        Judge(name, encoder.only(TOWERS[1]))
    assert encoder.judge_of(name).encoder.towers == (TOWERS[0], TOWERS[2])


def test_lite1_is_not_lite10():
    assert not is_tower_of("efficientnet_lite1", "efficientnet_lite10")


def lite0(**options):
    """A copy of a tower's network, with its weights."""
    model = timm.create_model("tf_efficientnet_lite0", **options)
    weights, own = load_classifier(TOWERS[0]).model.state_dict(), model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(fitting, strict=False)
    return model


def fine_tuned():
    model = lite0(num_classes=7)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in model.parameters():  # every weight moved by a fifth of its size
            x += 0.2 * x.abs().mean() * torch.randn(x.shape, generator=generator)
    return model


def folded():
    """Each batch norm's factor in the filters before it, some of them negative."""
    model = lite0()
    with torch.no_grad():
        for x in model.parameters():
            if x.ndim == 4:
                x *= torch.linspace(-2, 3, len(x))[:, None, None, None]
    return model


def towers_in(model):
    """The towers that a file of one's own with this network is built on."""
    identity = {"name": "file:mine.py:build", "signs": signs_of(model)}
    return [t for t in TOWERS if is_tower_of(t, identity)]


def other_layers():
    """A new head of two layers, so that features are of another width."""
    return nn.Sequential(lite0(num_classes=0), nn.Linear(1280, 64), nn.ReLU(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    "build", [lambda: lite0(num_classes=20), lambda: lite0().half(), fine_tuned, folded, other_layers]
)
def test_a_tower_is_known_by_its_weights(build):
    assert towers_in(build()) == [TOWERS[0]]


@pytest.mark.parametrize(
    "build",
    [
        lambda: timm.create_model("tf_efficientnet_lite0"),  # the same architecture, other weights
        lambda: timm.create_model("tf_efficientnet_b0"),
        lambda: timm.create_model("resnet18"),
        lambda: nn.Linear(3, 2),
    ],
)
def test_another_network_holds_no_tower(build):
    assert towers_in(build()) == []


OWN = """
from torch import nn
from sing_utils.models.classifiers import load_classifier

def build():
    model = load_classifier("efficientnet_lite1").model
    model.classifier = nn.Linear(1280, 20)
    return model
"""


def test_a_new_head_on_a_tower_is_judged_without_it(encoder, tmp_path):
    (tmp_path / "efficientnet_lite0.py").write_text(OWN)  # its name says nothing
    own = load_classifier(f"file:{tmp_path / 'efficientnet_lite0.py'}:build")
    assert load_classifier(TOWERS[1]).model.classifier.out_features == 1000  # the tower stays as it was
    judge = encoder.judge_of(own.identity)
    assert (judge.encoder.towers, judge.left_out) == ((TOWERS[0], TOWERS[2]), (TOWERS[1],))
    with pytest.raises(SingError, match="is the judged classifier"):
        Judge(own.identity, encoder)


def test_a_store_of_earlier_days_is_known_by_its_networks_checksum(encoder):
    identity = {"name": "head:x.safetensors", "weights": load_classifier(TOWERS[2]).sha256}
    assert encoder.judge_of(identity).left_out == (TOWERS[2],)
    assert encoder.judge_of(identity | {"weights": "0" * 64}).left_out == ()


def test_the_last_tower_cannot_be_left_out(encoder):
    with pytest.raises(SingError, match="is the judged classifier"):
        encoder.only(TOWERS[0]).judge_of(TOWERS[0])


@pytest.mark.parametrize("tower", TOWERS)
def test_own_features_do_not_reach_the_judges_targets(encoder, store, tower):
    class Poisoned:
        """The same store, but one tower's embeddings are noise."""

        def __init__(self, which):
            self.which = which

        def read(self, name):
            x = store.read(name)
            return torch.randn_like(x) if name == self.which else x

    judge = encoder.judge_of(tower)
    clean = judge.targets(store)
    assert unit(clean)
    assert torch.equal(judge.targets(Poisoned(tower)), clean)
    other = judge.encoder.towers[0]
    assert (judge.targets(Poisoned(other)) - clean).abs().max() > 0.01  # the test can fail


def test_judges_targets_are_its_own_encoding(encoder, store, pictures):
    judge = encoder.judge_of(TOWERS[2])
    assert (judge.targets(store) - judge.encode_images(pictures)).abs().max() < 1e-5


# ------------------------------------------------------------------------- mistakes


def test_an_unknown_name_gets_the_nearest(encoder):
    with pytest.raises(SingError, match="did you mean 'embedded'"):
        load_encoder("embeded")


@pytest.mark.parametrize("texts", [[], "a cat", [""], ["a cat", "  "], ["a cat", None]])
def test_what_is_not_a_list_of_texts_is_an_error(encoder, texts):
    with pytest.raises(SingError, match="expected"):
        encoder.encode_text(texts)


def test_a_text_that_is_too_long_is_an_error_not_cut(encoder):
    assert unit(encoder.encode_text([" ".join(["cat"] * 254)]))  # and its two marks
    long = " ".join(["cat"] * 255)
    with pytest.raises(SingError, match=r"begins 'cat cat .* has 257 word pieces .* at most 256"):
        encoder.encode_text(["a cat", long, "a rocket"])


def test_unknown_tower_and_wrong_width_are_errors(encoder):
    with pytest.raises(SingError, match="unknown tower 'resnet50'"):
        encoder.embed_features("resnet50", torch.ones(2, 1280))
    with pytest.raises(SingError, match="width 2048"):
        encoder.embed_features(TOWERS[0], torch.ones(2, 2048))
    with pytest.raises(SingError, match="unknown tower"):
        encoder.only(TOWERS[0]).embed_features(TOWERS[1], torch.ones(2, 1280))


def test_combining_too_few_towers_is_an_error(encoder):
    with pytest.raises(SingError, match="efficientnet_lite2"):
        encoder.combine({t: torch.ones(1, encoder.dim) for t in TOWERS[:2]})


def test_changed_weights_are_found(tmp_path):
    folder = shutil.copytree(EMBEDDED_WEIGHTS, tmp_path / "encoder")
    assert load_embedded(folder).sha256 == load_embedded().sha256
    save_file({"weight": torch.zeros(2, 3)}, folder / f"{TOWERS[1]}.safetensors")
    with pytest.raises(SingError, match="efficientnet_lite1.safetensors .* SHA-256"):
        load_embedded(folder)
    (folder / "text.safetensors").unlink()
    with pytest.raises(SingError, match="restore it"):
        load_embedded(folder)
    (folder / "manifest.json").write_text('["not", "a", "manifest"]')
    with pytest.raises(SingError, match="manifest.json"):
        load_embedded(folder)


def test_the_text_tower_is_the_sentence_encoder_it_claims_to_be(encoder):
    """MiniLM is loaded without sentence-transformers; both must agree."""
    z = minilm.embed_minilm(["a cat", "a kitten", "the stock market"])
    assert unit(z)
    assert float(z[0] @ z[1]) == pytest.approx(0.7663, abs=1e-3)  # sentence-transformers'
    assert float(z[0] @ z[2]) == pytest.approx(0.1351, abs=1e-3)
