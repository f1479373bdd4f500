"""Analysing a head and features without a model: by hand, against the book's own functions, in pieces."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import fakes
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sing_utils import HeadSpaces, NoNullSpaceError, SingError, Translator, angle, image_score
from sing_utils.cli import app
from sing_utils.features.fitting import fit_stores
from sing_utils.features.store import FeatureStore
from sing_utils.measure import analyze_files as files
from sing_utils.measure.analyze import _merge, analyze
from sing_utils.measure.analyze_files import open_features, read_embeddings
from sing_utils.method.head import Certificate, random_basis
from sing_utils.models.classifiers import LinearHead, load_classifier
from sing_utils.models.encoders import load_encoder

C, M, N, ROWS, K = 4, 10, 3, 70, 2


@pytest.fixture
def numbers(tmp_path):
    """Files of random numbers: a head, features, a translator, texts."""
    g = torch.Generator().manual_seed(0)
    W, b, f = (torch.randn(*s, generator=g) for s in ((C, M), (C,), (ROWS, M)))
    T, t = torch.randn(N, M, generator=g), torch.randn(K, N, generator=g)
    save_file({"weight": W, "bias": b}, tmp_path / "head.safetensors")
    save_file({"features": f}, tmp_path / "features.safetensors")
    np.save(tmp_path / "features.npy", f.numpy())
    Translator(T).save(tmp_path / "T.safetensors")
    save_file({"embeddings": t}, tmp_path / "texts.safetensors", {"texts": '["a cat", "a dog"]'})
    return tmp_path, W, b, f, T, t


def run(folder, *, features="features.npy", **options):
    return analyze(folder / "head.safetensors", folder / features, **options)


def test_by_hand(tmp_path):
    """The head sees only the first coordinate. f = (3, 4) loses 16/25 of its energy, f = (1, 1) a half.

    T is the identity. IS is the angle to (1, 0): atan(4/3) = 53.13 and 45. Toward the text (0, 1) the
    angles are 36.87 and 45 before, 90 after: AS = -53.13 and -45.
    """
    save_file({"weight": torch.tensor([[2.0, 0.0]])}, tmp_path / "head.safetensors")
    np.save(tmp_path / "f.npy", np.array([[3.0, 4.0], [1.0, 1.0]]))
    Translator(torch.eye(2)).save(tmp_path / "T.safetensors")
    found = run(
        tmp_path,
        features="f.npy",
        translator=tmp_path / "T.safetensors",
        texts={"up": torch.tensor([0.0, 1.0])},
        out=tmp_path / "out",
    )
    rows = pd.read_parquet(tmp_path / "out" / "rows.parquet")
    assert rows["share"].tolist() == pytest.approx([64.0, 50.0])
    assert rows["IS"].tolist() == pytest.approx([53.13010235, 45.0])
    texts = pd.read_parquet(tmp_path / "out" / "texts.parquet")
    assert texts["before"].tolist() == pytest.approx([36.86989765, 45.0])
    assert texts["after"].tolist() == pytest.approx([90.0, 90.0])
    assert texts["AS"].tolist() == pytest.approx([-53.13010235, -45.0])
    assert texts["text"].tolist() == ["up", "up"]
    head = found.head.iloc[0]
    assert (head["m"], head["c"], head["rank"], head["null dimension"]) == (2, 1, 1, 1)
    summary = found.summary.set_index("what")
    assert summary.loc["null energy", "mean"] == pytest.approx(57.0)
    assert summary.loc["null energy", "sd"] == pytest.approx(7 * 2**0.5)
    assert summary.loc["AS", "mean"] == pytest.approx(-49.0650512)
    assert summary.loc["AS", "mean size"] == pytest.approx(49.0650512)


def test_it_is_what_the_books_functions_give(numbers):
    folder, W, b, f, T, t = numbers
    texts = read_embeddings(folder / "texts.safetensors")
    found = run(folder, translator=folder / "T.safetensors", texts=texts, out=folder / "out")
    spaces = HeadSpaces.from_weight(W)
    z, z_tilde = f @ T.mT, spaces.remove_null(f) @ T.mT
    rows = pd.read_parquet(folder / "out" / "rows.parquet")
    np.testing.assert_allclose(rows["share"], 100 * spaces.null_energy(f), rtol=1e-9)
    np.testing.assert_allclose(rows["IS"], image_score(z, z_tilde), atol=1e-4)
    scores = pd.read_parquet(folder / "out" / "texts.parquet")
    assert scores["row"].tolist() == np.repeat(np.arange(ROWS), K).tolist()
    for k, name in enumerate(("a cat", "a dog")):
        own = scores[scores["text"] == name]
        np.testing.assert_allclose(own["before"], angle(z, t[k].expand_as(z)), atol=1e-4)
        np.testing.assert_allclose(own["after"], angle(z_tilde, t[k].expand_as(z)), atol=1e-4)
        np.testing.assert_allclose(own["AS"], own["before"] - own["after"], atol=1e-9)
    proof = spaces.certificate(f, bias=b)
    assert found.head["max |W f − W f̃| / (‖W‖ ‖f‖)"][0] == pytest.approx(proof.relative_change)
    assert found.head["top-1 changes"][0] == proof.top1_changes
    assert found.head["bound"][0] == proof.bound
    for name in ("head", "random", "summary"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(folder / "out" / f"{name}.parquet"), getattr(found, name)
        )


def test_the_control_is_the_books(numbers):
    """As `tables.random_energy`: the mean share in random subspaces of the null dimension."""
    folder, W, _, f, _, _ = numbers
    found = run(folder, draws=5, seed=3)
    null_dim = HeadSpaces.from_weight(W).null_dim
    for draw in range(5):
        Q = random_basis(M, null_dim, seed=3 + draw)
        share = ((f.double() @ Q).square().sum(-1) / f.double().square().sum(-1)).mean()
        assert found.random["share"][draw] == pytest.approx(100 * float(share))
    assert len(run(folder).random) == 20


@pytest.mark.parametrize("piece", [1, 7, 64, 70])
@pytest.mark.parametrize("features", ["features.npy", "features.safetensors"])
def test_pieces_make_no_difference(numbers, monkeypatch, piece, features):
    folder = numbers[0]
    options = {"translator": folder / "T.safetensors", "texts": read_embeddings(folder / "texts.safetensors")}
    whole = run(folder, out=folder / "whole", **options)
    monkeypatch.setattr(files, "_ROWS", piece)
    assert len(next(open_features(folder / features).pieces())) == piece
    parts = run(folder, features=features, out=folder / "parts", **options)
    pd.testing.assert_frame_equal(parts.summary, whole.summary, rtol=1e-6)
    for name in ("rows", "texts"):
        a, b = (pd.read_parquet(folder / x / f"{name}.parquet") for x in ("whole", "parts"))
        pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-4)


def test_the_certificate_is_of_all_pieces():
    """Null removal changes no top-1 class, so what is counted is looked at by hand."""
    a, b = Certificate(3, 0.2, 1e-6, 1), Certificate(4, 0.1, 1e-5, 5)
    assert _merge([a, b]) == _merge([b, a]) == Certificate(7, 0.2, 1e-5, 6)


def test_a_store_brings_its_paths(root, tmp_path):
    store = root / "data" / "embedded" / "features" / "efficientnet_lite0"
    g = torch.Generator().manual_seed(0)
    save_file({"weight": torch.randn(9, 1280, generator=g)}, tmp_path / "head.safetensors")
    analyze(tmp_path / "head.safetensors", store, out=tmp_path / "out", draws=1)
    rows, index = pd.read_parquet(tmp_path / "out" / "rows.parquet"), FeatureStore.open(store).index
    assert rows["path"].tolist() == index["path"].tolist()
    assert rows["label"].tolist() == index["label"].tolist()
    assert not (tmp_path / "out" / "texts.parquet").exists()


def test_half_precision_features_are_computed_in_float32(numbers):
    folder, _, _, f, _, _ = numbers
    np.save(folder / "half.npy", f.half().numpy())
    half, whole = run(folder, features="half.npy"), run(folder)
    assert half.summary["mean"][0] == pytest.approx(whole.summary["mean"][0], rel=1e-3)
    assert half.head["bound"][0] == whole.head["bound"][0]


def test_a_published_translator_with_and_without_its_bias(numbers):
    folder, W, _, f, T, _ = numbers
    bias = torch.tensor([3.0, 0.0, 4.0])
    torch.save({"weight": T, "bias": bias}, folder / "best.pt")
    plain = run(folder, translator=folder / "T.safetensors")
    without = run(folder, translator=folder / "best.pt")
    added = run(folder, translator=folder / "best.pt", with_bias=True)
    assert without.summary.equals(plain.summary)
    z, z_tilde = f @ T.mT + bias, HeadSpaces.from_weight(W).remove_null(f) @ T.mT + bias
    assert added.summary["mean"][1] == pytest.approx(float(image_score(z, z_tilde).mean()), abs=1e-4)
    assert abs(added.summary["mean"][1] - without.summary["mean"][1]) > 1
    assert "a bias of norm 5, left out, as in the paper" in without.text
    assert "a bias of norm 5, added here: other scores than the paper's" in added.text
    assert "bias" not in plain.text


def test_the_summary_says_how_good_the_translator_is(numbers):
    folder, _, _, f, T, _ = numbers
    Translator.fit(f, f @ T.mT).save(folder / "fitted.safetensors")
    assert "held-out rows 1.000" in run(folder, translator=folder / "fitted.safetensors").text
    assert "does not say how well" in run(folder, translator=folder / "T.safetensors").text


# --------------------------------------------------------------------------------- refusing


def write(path, tensors, metadata=None):
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("f.npy", np.ones((3, M + 1)), f"has width {M + 1} .*expected {M}"),
        ("f.npy", np.ones(M), r"features of shape \(10,\), expected \(N, m\)"),
        ("f.npy", np.ones((0, M)), "holds no row"),
        ("f.npy", np.array([[object()]]), "holds no features .*expected a 2-D array of numbers"),
        ("f.npy", np.array([["a"] * M]), "expected"),
        ("f.npy", np.ones((3, M), complex), "expected real numbers"),
    ],
)
def test_features_that_do_not_fit_are_refused(numbers, name, array, message):
    np.save(numbers[0] / name, array, allow_pickle=True)
    with pytest.raises(SingError, match=message):
        run(numbers[0], features=name, out=numbers[0] / "out")
    assert not list((numbers[0] / "out").glob("*.parquet"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"kernel": torch.ones(2, M)}, "holds no head"),
        ({"weight": torch.ones(M)}, "holds no head"),
        ({"weight": torch.ones(2, M), "bias": torch.ones(3)}, "holds no head"),
    ],
)
def test_heads_that_are_none_are_refused(numbers, tensors, message):
    write(numbers[0] / "head.safetensors", tensors)
    with pytest.raises(SingError, match=message):
        run(numbers[0])


def test_a_head_without_a_null_space_is_named(numbers):
    write(numbers[0] / "head.safetensors", {"weight": torch.eye(M)})
    with pytest.raises(NoNullSpaceError, match="has no null space"):
        run(numbers[0])


def test_a_translator_and_texts_must_fit(numbers):
    folder = numbers[0]
    Translator(torch.ones(N, M + 1)).save(folder / "other.safetensors")
    with pytest.raises(SingError, match="takes features of width 11, expected 10"):
        run(folder, translator=folder / "other.safetensors")
    with pytest.raises(SingError, match="the embedding of 'a cat' has width 5 .*expected 3"):
        run(folder, translator=folder / "T.safetensors", texts={"a cat": torch.ones(5)})
    with pytest.raises(SingError, match="need a translator"):
        run(folder, texts={"a cat": torch.ones(3)})
    with pytest.raises(SingError, match="has no bias to add"):
        run(folder, translator=folder / "T.safetensors", with_bias=True)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"z": torch.ones(2, 3)}, None),
        ({"embeddings": torch.ones(3)}, None),
        ({"embeddings": torch.ones(2, 3)}, {"texts": '["a cat"]'}),
        ({"embeddings": torch.ones(2, 3)}, {"texts": '["a cat", "a cat"]'}),
        ({"embeddings": torch.ones(2, 3)}, {"texts": "a cat"}),
        ({"embeddings": torch.ones(2, 3)}, {"texts": "7"}),
        ({"embeddings": torch.ones(1, 3)}, {"texts": '[["a cat"]]'}),
    ],
)
def test_other_files_of_embeddings_are_refused(tmp_path, tensors, metadata):
    path = write(tmp_path / "t.safetensors", tensors, metadata)
    with pytest.raises(SingError, match="holds no embeddings of texts"):
        read_embeddings(path)


def test_embeddings_without_texts_are_numbered(tmp_path):
    path = write(tmp_path / "t.safetensors", {"embeddings": torch.eye(2)})
    assert list(read_embeddings(path)) == ["text 0", "text 1"]


# ----------------------------------------------------------------------------- the commands


def sing(*arguments):
    """The command in this process: exit code and output; a mistake comes back as its SingError."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exception if isinstance(result.exception, SingError) else (result.exit_code, result.output)


def test_the_commands_from_a_classifier_to_scores(root, tmp_path, monkeypatch):
    """Export a real head, fit a translator on the book's stored features, and analyse both."""
    monkeypatch.chdir(tmp_path)
    stores = root / "data" / "embedded" / "features"
    code, output = sing("export-head", "--classifier", "efficientnet_lite0", "--out", "head.safetensors")
    assert (code, output) == (0, "head.safetensors: 1000 classes x 1280 features of efficientnet_lite0.\n")
    fit = ("fit", "--features", stores / "efficientnet_lite0", "--targets", stores / "embedded")
    assert "say which encoder" in str(sing(*fit, "--out", "T.safetensors"))
    code, output = sing(*fit, "--encoder", "embedded", "--out", "T.safetensors")
    assert code == 0
    assert re.search(r"fitted on \d+ pictures; on \d+ held out: cosine 0\.[5-9]\d+, R² 0\.", output)
    assert Translator.load("T.safetensors").meta == {
        "classifier": "efficientnet_lite0",
        "encoder": "embedded",
        "left out": "efficientnet_lite0",
        "network": load_classifier("efficientnet_lite0").sha256,
    }
    analyse = ("analyze", "--head", "head.safetensors", "--features", stores / "efficientnet_lite0")
    analyse += ("--translator", "T.safetensors")
    prompts = ("--encoder", "embedded", "--prompt", "a jellyfish", "--prompt", "a jeep")
    for wrong in (prompts[:2], prompts[2:], (*prompts, "--embeddings", "texts.safetensors")):
        assert "either --embeddings, or --encoder with --prompt" in str(sing(*analyse, *wrong))
    command = [sys.executable, "-m", "sing_utils.cli", *map(str, (*analyse, *prompts, "--out", "out"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "head: 1000 classes x 1280 features, rank 1000, null dimension 280" in done.stdout
    assert "AS toward 'a jeep': mean " in done.stdout
    assert "not checked" not in done.stdout  # all three say that they are of one network
    assert "without the encoder's efficientnet_lite0" in done.stdout
    assert "head.parquet, random.parquet, rows.parquet, summary.parquet, texts.parquet in out" in done.stdout
    judge = load_encoder("embedded").judge_of("efficientnet_lite0")
    write("texts.safetensors", {"embeddings": judge.encode_text(["a jeep"])}, {"texts": '["a jeep"]'})
    code, output = sing(*analyse, "--embeddings", "texts.safetensors")
    line = next(x for x in done.stdout.splitlines() if "a jeep" in x)
    assert line in output  # the same numbers from a file of embeddings


@pytest.mark.parametrize("wrong", ["head", "features", "translator"])
def test_what_is_of_another_network_is_refused(numbers, wrong):
    """One of three is of network b; all three are of one width."""
    folder, W, b, f, T, _ = numbers
    of = {part: "b" if part == wrong else "a" for part in ("head", "features", "translator")}
    LinearHead(W, b, sha256=of["head"] * 64).save(folder / "head.safetensors")
    save_file({"features": f}, folder / "features.safetensors", metadata={"network": of["features"] * 64})
    Translator(T, meta={"network": of["translator"] * 64}).save(folder / "T.safetensors")
    with pytest.raises(SingError, match="a{12}.* of b{12}|b{12}.* of a{12}"):
        run(folder, features="features.safetensors", translator=folder / "T.safetensors")


def test_what_does_not_say_its_network_is_named(numbers):
    folder, W, b, f, T, _ = numbers
    LinearHead(W, b, sha256="a" * 64).save(folder / "head.safetensors")
    unknown = [line for line in run(folder).text.splitlines() if line.startswith("not checked")]
    assert len(unknown) == 1
    assert "features.npy" in unknown[0]
    assert "head" not in unknown[0]
    save_file({"features": f}, folder / "f.safetensors", metadata={"network": "a" * 64})
    Translator(T, meta={"network": "a" * 64}).save(folder / "T.safetensors")
    found = run(folder, features="f.safetensors", translator=folder / "T.safetensors")
    assert "not checked" not in found.text


def test_the_head_of_another_classifier_on_a_store(root, tmp_path):
    """Lite0 and Lite1 are both 1280 wide, and both heads pass every other check."""
    stores, head = root / "data" / "embedded" / "features", tmp_path / "h.safetensors"
    load_classifier("efficientnet_lite1").head.save(head)
    found = str(sing("analyze", "--head", head, "--features", stores / "efficientnet_lite0"))
    assert "expected one network" in found


def test_only_some_splits_are_fitted(tmp_path):
    index = pd.DataFrame({"path": [f"{i}.png" for i in range(40)], "split": ["train", "val"] * 20})
    f, out = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), tmp_path / "T.safetensors"
    for name, arrays in {"a": f, "b": {"embeddings": f}}.items():
        FeatureStore.from_arrays(tmp_path / name, arrays, index.assign(label="x"), name=name)
    fit = ("fit", "--features", tmp_path / "a", "--targets", tmp_path / "b", "--out", out)
    assert sing(*fit, "--split", "train")[0] == 0
    report = Translator.load(out).report
    assert report.n_fit + report.n_held_out == 20
    assert "0 of" in str(sing(*fit, "--split", "none"))


def test_a_file_that_cannot_be_written_is_said_first(tmp_path):
    for out in (tmp_path, tmp_path / "no" / "head.safetensors"):
        found = sing("export-head", "--classifier", "efficientnet_lite0", "--out", out)
        assert "can't be written, expected a file name in an existing folder" in str(found)


# ---------------------------------------------------------------- numbers in other kinds of files


@pytest.mark.parametrize(
    ("name", "write_it"),
    [
        ("f.npz", lambda path, f: np.savez(path, features=f, labels=np.arange(len(f)))),
        ("f.npz", lambda path, f: np.savez_compressed(path, f)),
        ("f.npz", lambda path, f: np.savez(path, features=f, paths=np.array([None, "a"], dtype=object))),
        ("f.pt", lambda path, f: torch.save(torch.from_numpy(f), path)),
        ("f.pth", lambda path, f: torch.save({"features": torch.from_numpy(f), "names": ["a"]}, path)),
        ("f.pt", lambda path, f: torch.save(torch.nn.Parameter(torch.from_numpy(f)), path)),
        ("f.npy", lambda path, f: np.save(path, f.astype(">f4"))),
        ("f.npy", lambda path, f: np.save(path, np.asfortranarray(f))),
        ("F.NPY", lambda path, f: np.save(open(path, "wb"), f)),  # noqa: SIM115
        ("f.npz", lambda path, f: np.savez(path, features=f.astype(">f4"))),
    ],
)
def test_kinds_of_files_give_the_same_numbers(numbers, name, write_it):
    expected = run(numbers[0])
    write_it(numbers[0] / name, numbers[3].numpy())
    found = run(numbers[0], features=name).text
    assert _numbers(found) == _numbers(expected.text)


def _numbers(text):
    """What is said of numbers: not which network nothing is known of, which names the file."""
    return [line for line in text.splitlines() if not line.startswith("not checked")]


@pytest.mark.parametrize(
    ("name", "write_it", "message"),
    [
        ("f.npz", lambda path: np.savez(path, x=np.ones((2, M)), y=np.ones((2, M))), r"x \(2, 10\), y"),
        ("f.npz", lambda path: path.write_bytes(b"PK junk"), "holds no features"),
        ("f.npz", lambda path: np.savez(path, features=np.array([[{}]])), "pickled"),
        ("f.pt", lambda path: torch.save({"weight": torch.ones(2, M)}, path), r"weight \(2, 10\)"),
        ("f.pt", lambda path: torch.save([torch.ones(2, M)], path), "holds no features"),
        ("f.pt", lambda path: torch.save({"features": Path("x")}, path), "pickled"),
        ("f.pt", lambda path: torch.save(torch.ones(M), path), r"expected \(N, m\)"),
        ("f.pt", lambda path: path.write_bytes(b"junk"), "holds no features"),
        ("f.parquet", lambda path: path.write_bytes(b"junk"), "expected a feature store .* or such a file"),
        ("f.csv", lambda path: path.write_bytes(b"junk"), "f.csv is no folder, .npy, .npz"),
        ("f.npy", lambda path: path.write_bytes(b"junk"), "f.npy holds no features"),
        ("f.npy", lambda path: path.touch(), "holds no features"),
        ("f.npy", lambda path: None, "holds no features"),
        ("f.safetensors", lambda path: path.write_bytes(b"junk"), "holds no features"),
        ("f.safetensors", lambda path: write(path, {"f": torch.ones(2, M)}), "holds no features"),
        ("f", lambda path: path.mkdir(), "expected a finished feature store"),
    ],
)
def test_files_that_hold_something_else_are_answered(numbers, name, write_it, message):
    write_it(numbers[0] / name)
    with pytest.raises(SingError, match=message):
        run(numbers[0], features=name)


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [(7, 0.0, "row 7 of .*zero"), (0, np.nan, "row 0 of .*NaN"), (3999, np.inf, "row 3999 of .*infinite")],
)
def test_a_row_without_a_direction_is_named(numbers, row, value, message):
    f = numbers[3].numpy().repeat(4000 // len(numbers[3]) + 1, 0)[:4000]
    f[row] = value
    np.save(numbers[0] / "bad.npy", f)
    with pytest.raises(SingError, match=message):
        run(numbers[0], features="bad.npy")


# ------------------------------------------------------------------------------ all tables or none


def test_tables_of_an_earlier_analysis_do_not_stay(numbers):
    folder, out = numbers[0], numbers[0] / "out"
    run(folder, translator=folder / "T.safetensors", texts={"a": numbers[5][0]}, out=out)
    assert (out / "texts.parquet").exists()
    run(folder, out=out)
    assert sorted(p.name for p in out.iterdir()) == [
        f"{name}.parquet" for name in ("head", "random", "rows", "summary")
    ]


@pytest.mark.parametrize("at", ["rows", "summary"])
def test_a_disk_that_fills_up_leaves_the_tables_as_they_were(numbers, monkeypatch, at):
    folder, out = numbers[0], numbers[0] / "out"
    run(folder, out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    to_parquet = pd.DataFrame.to_parquet

    def full(table, file, **options):
        to_parquet(table, file, **options)
        if f".{at}." in file.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(SingError, match="No space left"):
        run(folder, translator=folder / "T.safetensors", out=out)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (("export-head", "--classifier", "efficientnet_lite0"),
         "sing_utils.models.classifiers.load_classifier"),
        (("fit", "--features", "{stores}/efficientnet_lite0", "--targets", "{stores}/embedded",
          "--encoder", "embedded"), "sing_utils.features.fitting.fit_stores"),
        (("picture", "chelsea"), "sing_utils.runs.run.open_run"),
        (("analyze", "--head", "head.safetensors", "--features", "features.npy"),
         "sing_utils.measure.analyze._merge"),
        (("pack", "--features", "features.npy", "--table", "t.csv"),
         "sing_utils.features.store.write_manifest"),
    ],
)  # fmt: skip
def test_a_place_that_takes_nothing_is_said_before_the_work(numbers, root, monkeypatch, command, work):
    folder = numbers[0]
    monkeypatch.chdir(root)
    (folder / "t.csv").write_text("path\n" + "\n".join(map(str, range(ROWS))))

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("sing_utils.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("it began"))
    given = [a.format(stores=root / "data" / "embedded" / "features") for a in command]
    given = [folder / a if (folder / a).is_file() else a for a in given]
    out = folder / ("x.png" if command[0] == "picture" else "x")
    found = sing(*given, "--out", out)
    assert isinstance(found, SingError), found
    assert "no space" in str(found)
    assert not [p for p in folder.rglob("x*") if p.is_file()]


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [("efficientnet_lite0", 1280), ("torchvision:resnet18", 512), ("timm:vit_tiny_patch16_224", 192)],
)
def test_room_for_a_head_is_tried_before_it_is_loaded(tmp_path, monkeypatch, spec, numbers):
    written = []

    class Place(BytesIO):
        def write(self, data):
            written.append(len(data))

    monkeypatch.setattr("sing_utils.files.tempfile.TemporaryFile", lambda **_: Place())
    load = "sing_utils.models.classifiers.load_classifier"
    monkeypatch.setattr(load, lambda *_: (_ for _ in ()).throw(SingError("it is loaded now")))
    assert "loaded now" in str(sing("export-head", "--classifier", spec, "--out", tmp_path / "h"))
    assert 4000 * numbers < sum(written) < 4000 * numbers + (2 << 20)


# ------------------------------------------------------------------------------ arrays as a store


@pytest.fixture
def arrays(tmp_path, make_picture):
    """Features of six pictures in another order than an encoder's store has them."""
    for i in range(6):
        make_picture(tmp_path / "photos" / f"c{i % 2}" / f"{i}.png", seed=i)
    store = fakes.run(tmp_path / "photos", tmp_path / "targets")
    order = [3, 0, 5, 1, 4, 2]
    f = torch.arange(12.0).reshape(6, 2).numpy()  # row i is of the store's i-th picture
    np.save(tmp_path / "f.npy", f[order])
    return tmp_path, f, store.index.iloc[order]


@pytest.mark.parametrize(
    ("table", "before"),
    [("f.csv", ""), ("f.parquet", ""), ("other.tsv", ""), ("f.csv", "/data/set/"), ("f.csv", "C:\\set\\")],
)
def test_rows_are_put_in_the_order_of_another_store(arrays, table, before):
    folder, f, index = arrays
    paths = before + index["path"]
    rows = pd.DataFrame({"filename": paths, "class": "x"})
    if table.endswith(".parquet"):
        rows.to_parquet(folder / table)
    else:
        rows.to_csv(folder / table, index=False, sep="\t" if table.endswith(".tsv") else ",")
    given = ("--table", folder / table) if table.startswith("other") else ()
    found = sing(
        "pack", "--features", folder / "f.npy", "--like", folder / "targets", *given, "--out", folder / "s"
    )
    assert found[0] == 0, found
    store, targets = (FeatureStore.open(folder / name) for name in ("s", "targets"))
    assert store.read("features").tolist() == f.tolist()
    assert store.index.equals(targets.index)
    assert fit_stores(store, FeatureStore.open(folder / "targets")).report.n_fit == 5


def test_two_packed_files_of_the_same_rows_are_fitted(arrays):
    """Without any picture or network: (T f = 2 f) is found again."""
    folder, _, index = arrays
    np.savez(folder / "z.npz", embeddings=2 * np.load(folder / "f.npy"))
    for name in ("f", "z"):
        index.to_csv(folder / f"{name}.csv", index=False)
    assert sing("pack", "--features", folder / "f.npy", "--out", folder / "a", "--name", "net")[0] == 0
    assert sing("pack", "--embeddings", folder / "z.npz", "--out", folder / "b")[0] == 0
    a = FeatureStore.open(folder / "a")
    assert a.index["label"].tolist() == index["label"].tolist()
    assert a.manifest["extractor"]["name"] == "net"
    assert sing("fit", "--features", folder / "a", "--targets", folder / "b", "--out", folder / "T")[0] == 0
    assert torch.allclose(Translator.load(folder / "T").weight, 2 * torch.eye(2), atol=1e-2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,label\na,x\n", "6 .*|1 rows"),
        ("name,label\n" + "a,x\n" * 6, "expected `path`"),
        ("path\n" + "a\n" * 6, "different in each row"),
        ("", "has 0 rows of no column"),
        ('path\n"a\n', "can't be read as a table"),
        (None, "nothing says what the 6 rows"),
    ],
)
def test_tables_that_do_not_fit_the_rows_are_answered(arrays, table, message):
    folder = arrays[0]
    if table is not None:
        (folder / "f.csv").write_text(table)
    found = sing("pack", "--features", folder / "f.npy", "--out", folder / "s")
    assert isinstance(found, SingError), found
    assert re.search(message, str(found))
    assert not (folder / "s" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pd.Categorical(["cat", None, " dog "]), ["cat", "", "dog"]),
        ([0, 1, None], ["0", "1", ""]),
        ([1.5, 2.0, 3.0], ["1.5", "2", "3"]),
    ],
)
def test_labels_of_tables_are_read_as_those_of_pictures(tmp_path, labels, expected):
    np.save(tmp_path / "f.npy", np.eye(3))
    rows = pd.DataFrame({"path": list("abc"), "label": labels, "split": ["Train", " VAL", "testing"]})
    rows.to_parquet(tmp_path / "f.parquet")
    assert sing("pack", "--features", tmp_path / "f.npy", "--out", tmp_path / "s")[0] == 0
    index = FeatureStore.open(tmp_path / "s").index
    assert index["label"].tolist() == expected
    assert index["split"].tolist() == ["train", "val", "test"]


@pytest.mark.parametrize("text", ["path,label\na,0,x\nb,1,x\nc,2,x\n", "path,label\na,0\nb\nc,2\n"])
def test_no_column_of_a_table_is_shifted(tmp_path, text):
    np.save(tmp_path / "f.npy", np.eye(3))
    (tmp_path / "f.csv").write_text(text)
    said = sing("pack", "--features", tmp_path / "f.npy", "--out", tmp_path / "s")
    assert "fields, expected 2" in str(said)


@pytest.mark.parametrize("x", [torch.eye(3).to_sparse(), torch.eye(3, device="meta")])
def test_numbers_that_are_none_yet_are_answered(tmp_path, x):
    torch.save(x, tmp_path / "f.pt")
    with pytest.raises(SingError, match="sparse, quantised or without values"):
        files.open_array(tmp_path / "f.pt")


def test_pictures_that_the_table_lacks_and_bad_calls(arrays):
    folder, _, index = arrays
    index.assign(path="x" + index["path"]).to_csv(folder / "f.csv", index=False)
    pack = ("pack", "--features", folder / "f.npy", "--out", folder / "s")
    assert "6 of 6 pictures" in str(sing(*pack, "--like", folder / "targets"))
    assert "exactly one" in str(sing(*pack, "--embeddings", folder / "f.npy"))
    np.save(folder / "f.npy", np.full((6, 2), np.nan))
    assert "NaN" in str(sing(*pack))
    np.save(folder / "f.npy", np.ones((6, 2)))
    assert sing(*pack)[0] == 0
    assert "holds a store already" in str(sing(*pack))
