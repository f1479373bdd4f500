"""Published translators: read safely, the bias kept apart, refused with a reason where they do not fit."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from fakes import Evil
from safetensors.torch import save_file

from sing_utils import HeadSpaces, SingError, Translator, attribute_score, image_score

WIDTHS = (768, 20)  # n, m


@pytest.fixture
def checkpoint(tmp_path):
    """Write best.pt and, unless None, metadata.yaml beside it."""

    def write(held=None, metadata="model_name: resnet50\nin_dim: 20\nout_dim: 768\n", name="best.pt"):
        g = torch.Generator().manual_seed(0)
        default = {"weight": torch.randn(*WIDTHS, generator=g), "bias": torch.randn(768, generator=g)}
        held = default if held is None else held
        save_file(held, tmp_path / name) if name.endswith("safetensors") else torch.save(
            held, tmp_path / name
        )
        if metadata is not None:
            (tmp_path / "metadata.yaml").write_text(metadata)
        return tmp_path / name, held

    return write


# ---------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_a_published_checkpoint_is_read(checkpoint, name):
    path, held = checkpoint(name=name)
    T = Translator.from_checkpoint(path, m=20, n=768)
    assert torch.equal(T.weight, held["weight"])
    assert torch.equal(T.bias, held["bias"])
    assert T.report is None
    assert T.meta == {
        "source": name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "classifier": "resnet50",
        "bias norm": f"{float(held['bias'].norm()):.6g}",
    }


def test_it_does_not_hang_on_to_the_file(checkpoint):
    """Mapped memory would change, or vanish, with the file."""
    path, held = checkpoint()
    T = Translator.from_checkpoint(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(T.weight, held["weight"])


def test_without_bias_and_without_metadata(checkpoint):
    path, _ = checkpoint({"weight": torch.ones(2, 3)}, metadata=None)
    T = Translator.from_checkpoint(path)
    assert T.bias is None
    assert T.meta.keys() == {"source", "sha256"}
    with pytest.raises(SingError, match="no bias to add"):
        T(torch.ones(3), with_bias=True)


# ------------------------------------------------------------------- with and without the bias


def test_the_bias_is_apart_and_added_on_request(checkpoint):
    path, held = checkpoint()
    T = Translator.from_checkpoint(path)
    f = torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(T(f), f @ held["weight"].mT)
    torch.testing.assert_close(T(f, with_bias=True), f @ held["weight"].mT + held["bias"])
    assert T(f.double().numpy(), with_bias=True).dtype == "float64"


def test_scores_differ_with_the_bias_by_hand():
    """The head sees the first coordinate only, so f = (1, 1) becomes f~ = (1, 0).

    Without the bias the angle from (1, 1) to (1, 0) is 45 degrees. With the bias (0, 1) it is that from
    (1, 2) to (1, 1): atan 2 - 45 degrees. Toward the text (1, 0) the angles are 45 and 0, so AS = 45;
    with the bias they are atan 2 and 45.
    """
    spaces = HeadSpaces.from_weight(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    T = Translator(torch.eye(2, dtype=torch.float64), bias=torch.tensor([0.0, 1.0], dtype=torch.float64))
    after, f = T.after_null_removal(spaces), torch.tensor([1.0, 1.0], dtype=torch.float64)
    text = torch.tensor([1.0, 0.0], dtype=torch.float64)
    atan2 = 63.43494882292201
    assert float(image_score(T(f), after(f))) == pytest.approx(45.0)
    assert float(attribute_score(T(f), after(f), text)) == pytest.approx(45.0)
    z, z_tilde = T(f, with_bias=True), after(f, with_bias=True)
    assert z.tolist() == [1.0, 2.0]
    assert z_tilde.tolist() == [1.0, 1.0]
    assert float(image_score(z, z_tilde)) == pytest.approx(atan2 - 45)
    assert float(attribute_score(z, z_tilde, text)) == pytest.approx(atan2 - 45)


def test_save_and_load_keep_the_bias(checkpoint, tmp_path):
    T = Translator.from_checkpoint(checkpoint()[0])
    T.save(tmp_path / "T.safetensors")
    again = Translator.load(tmp_path / "T.safetensors")
    assert torch.equal(again.bias, T.bias)
    assert torch.equal(again.weight, T.weight)
    assert again.meta == T.meta
    spaces = HeadSpaces.from_weight(torch.randn(3, 20, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(again.after_null_removal(spaces).bias, T.bias)


# --------------------------------------------------------------------------------- refusing


IN, OUT = "takes features of width 20, expected 2048", "gives embeddings of width 768, expected 512"


@pytest.mark.parametrize(
    ("widths", "metadata", "message"),
    [
        ({"m": 2048}, None, f"{IN}, which is that of the classifier"),
        ({"n": 512}, None, OUT),
        ({"m": 768, "n": 20}, None, "of width 768, expected 20"),
        ({}, "in_dim: 2048\n", f"{IN}, which its metadata.yaml gives"),
        ({}, "out_dim: 512\n", OUT),
        ({}, "in_dim: twenty\n", "is no metadata of a translator"),
        ({}, "- a list\n- of things\n", "is no metadata"),
        ({}, "", "is no metadata"),
        ({}, "a: [", "is no metadata"),
    ],
)
def test_other_widths_and_metadata_are_refused(checkpoint, widths, metadata, message):
    with pytest.raises(SingError, match=message):
        Translator.from_checkpoint(checkpoint(metadata=metadata)[0], **widths)


NAN = torch.tensor([[1.0, float("nan")]])


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"state_dict": {}}, "holds state_dict"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "epoch": 3}, "holds weight, bias, epoch"),
        ({"bias": torch.ones(2)}, "holds bias"),
        ({"weight": [1.0, 2.0]}, "holds weight, expected one linear layer"),
        ({"weight": torch.ones(2, 3, dtype=torch.int64)}, "floating-point"),
        ({"weight": torch.ones(3)}, r"holds weight \(3,\), expected weight \(n, m\)"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, r"bias \(3,\), expected .* no linear layer"),
        ({"weight": torch.ones(0, 3)}, r"holds weight \(0, 3\)"),
        ({"weight": NAN}, "weight of best.pt holds 1 NaN"),
        (torch.ones(2, 3), "holds Tensor"),
        ({}, "holds nothing"),
    ],
)
def test_other_contents_are_refused(checkpoint, held, message):
    with pytest.raises(SingError, match=message):
        Translator.from_checkpoint(checkpoint(held, metadata=None)[0])


def test_pickled_code_is_not_run(checkpoint, tmp_path):
    path, held = checkpoint()
    torch.save(held | {"extra": Evil(tmp_path / "ran")}, path)
    with pytest.raises(SingError, match="holds pickled objects"):
        Translator.from_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(SingError, match="is damaged or no checkpoint"):
        Translator.from_checkpoint(path)
    torch.save({"weight": Evil(tmp_path / "ran")}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(SingError, match="is damaged or no checkpoint"):
        Translator.from_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_metadata_runs_no_code(checkpoint, tmp_path):
    call = f"!!python/object/apply:os.mkdir ['{tmp_path}/ran']"
    with pytest.raises(SingError, match="is no metadata"):
        Translator.from_checkpoint(checkpoint(metadata=f"model_name: {call}\n")[0])
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "best.pt")
    with pytest.raises(SingError, match="best.pt is a TorchScript archive"):
        Translator.from_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("kept", [0, 4, 5000, -1])
@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_damaged_files_are_refused(checkpoint, kept, name):
    path, _ = checkpoint(name=name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SingError, match=f"{name} is damaged or no checkpoint"):
        Translator.from_checkpoint(path)


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name):
    with pytest.raises(SingError, match="can't be read .*check the path"):
        Translator.from_checkpoint(tmp_path / name)
    with pytest.raises(SingError, match="can't be read"):
        Translator.from_checkpoint(tmp_path)
