"""The `sing` command: exit codes, one sentence on stderr, nothing half-written."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
from command import SING, assert_refused
from PIL import Image

from sing_utils import SingError
from sing_utils.cli import parse_parameters
from sing_utils.cli import stores as cli_stores
from sing_utils.runs.run import open_run

# --------------------------------------------------------------- the installed console script


def test_the_console_script_refuses_in_one_line(tmp_path, root):
    done = subprocess.run(
        [SING, "run", "-p", "sede=1"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "sing: unknown key 'sede' in the given parameters; did you mean 'seed'?\n"
    assert done.stdout == ""


# ---------------------------------------------------------------------------------- sing run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "classifer=[a]"], ["unknown key 'classifer'", "'classifiers'"]),
        (["-p", "seed=many"], ["parameter seed", "valid integer", "'many'"]),
        (["-p", "seed=[1"], ["'seed=[1'", "not valid YAML"]),
        (["-p", "concepts=nowhere.yaml"], ["concepts: nowhere.yaml is no file"]),
        (["-p", "classes=[tenchh]"], ["no picture of 'tenchh'", "golf ball", "did you mean 'tench'?"]),
        (["-p", "images=nowhere"], ["nowhere is not a folder"]),
        (["-p", "source_class=sportscar"], ["'sportscar' is no class", "did you mean 'sports car'"]),
        (["-p", "picture_backend=dalle"], ["unknown picture backend 'dalle'", "photos:FOLDER"]),
        (["-p", "picture_backend=karlo"], ["width 768", "'embedded' gives 320"]),
        (["-p", "picture_backend=photos:nowhere"], ["nowhere is not a folder"]),
        (["-p", "picture_backend=mini:nowhere"], ["no mini UnCLIP in", "nowhere"]),
        (["-p", f"targets=[{'camel ' * 300}]"], ["256", "shorten it"]),
        (["--profile", "embeded"], ["unknown profile 'embeded'", "did you mean 'embedded'"]),
        (["--only", "77"], ["no notebook '77'", "00_setup"]),
        (["--run-dir", "README.md/x"], ["cannot write to ", "README.md/x", "writable folder"]),
    ],
)
def test_a_bad_run_is_refused_before_anything_is_executed(sing, root, tmp_path, arguments, words):
    if "--run-dir" not in arguments:
        arguments = [*arguments, "--run-dir", tmp_path / "run"]
    assert_refused(sing("run", *arguments, cwd=root), *words)
    assert not (tmp_path / "run" / "executed").exists()


def test_outside_a_checkout(sing, tmp_path):
    assert_refused(sing("run"), "no data/profiles at or above", "inside a checkout")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ sing picture


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, root):
    """A run with one translator, as notebook 01 leaves it."""
    folder = tmp_path_factory.mktemp("fitted")
    open_run("embedded", run_dir=str(folder)).translator("efficientnet_lite0")
    return folder


@pytest.mark.parametrize("toward", [[], ["--toward", "an image of a jellyfish", "--degrees", "30"]])
def test_a_picture_of_a_pair(sing, sing_process, root, tmp_path, fitted, toward):
    out = tmp_path / "pair.png"
    call = sing_process if toward else sing
    result = call("picture", "chelsea", "--out", out, "--run-dir", fitted, *toward, cwd=root)
    assert result.code == 0, result.err
    assert Image.open(out).size == (64 + 4 + 64, 64)
    assert "16 classes only" in result.err
    assert ("IS 30.00°, AS toward 'an image of a jellyfish' +" in result.out) == bool(toward)
    assert "The logits moved by at most" in result.out


def test_the_nearest_photo_instead_of_a_drawing(sing, root, tmp_path, fitted, make_picture):
    for i in range(3):
        make_picture(tmp_path / "album" / f"{i}.png", seed=i, size=(40, 30))
    out = tmp_path / "pair.png"
    make_picture(tmp_path / "mine.png", seed=9, size=(40, 30))
    (tmp_path / "data").symlink_to(root / "data")  # a checkout, as far as profiles go
    given = ["--backend", "photos:album", "--out", out, "--run-dir", fitted]  # relative to here
    result = sing("picture", "mine.png", *given)
    assert result.code == 0, result.err
    assert Image.open(out).size == (40 + 4 + 40, 30)
    assert result.out.count("original, place") == result.out.count("equivalent, place") == 3
    assert "°)" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chelsea", "--out", "pair.docx"], ["pair.docx is no kind of picture"]),
        (["chelsea", "--out", "pair.cur"], ["pair.cur is no kind of picture"]),
        (["chelsea", "--out", "nowhere/pair.png"], ["existing folder", "nowhere"]),
        (["README.md", "--out", "pair.png"], ["README.md can't be read as a picture"]),
        (["chelsea", "--out", "pair.png", "--degrees", "10"], ["--degrees was given without --toward"]),
        (["chelsea", "--out", "pair.png", "--save-memory"], ["--save-memory is for --backend karlo only"]),
        (["chlesea", "--out", "pair.png"], ["'chlesea' is no file", "chelsea"]),
        (["chelsea", "--out", "pair.png", "--toward", " "], ["expected words"]),
        (["chelsea", "--out", "pair.png", "--toward", "camel " * 300], ["256", "shorten it"]),
        (["chelsea", "--out", "pair.png", "--toward", "a camel", "--degrees", "200"], ["less than 180"]),
        (["chelsea", "--out", "pair.png", "--toward", "a camel", "--degrees", "150"], ["can't be reached"]),
        (["chelsea", "--out", "pair.png", "--backend", "mini:nowhere"], ["no mini UnCLIP in", "nowhere"]),
        (["chelsea", "--out", "pair.png", "--backend", "photos:nowhere"], ["nowhere is not a folder"]),
        (["chelsea", "--out", "pair.png", "--classifier", "resnet"], ["unknown classifier 'resnet'"]),
    ],
)
def test_a_bad_picture_is_refused(sing, root, tmp_path, fitted, arguments, words):
    assert_refused(sing("picture", "chelsea", "--out", "x.png", "--run-dir", "nope", cwd=root), "no run in")
    assert not (root / "nope").exists()
    place = arguments.index("--out") + 1
    arguments = [*arguments[:place], tmp_path / arguments[place], *arguments[place + 1 :]]
    assert_refused(sing("picture", *arguments, "--run-dir", fitted, cwd=root), *words)
    assert not list(tmp_path.glob("pair*"))


# ----------------------------------------------------------------- sing results, sing compare


@pytest.fixture
def two_runs(tmp_path, root):
    """A checkout, as far as profiles go, with two runs whose tables differ in one number."""
    (tmp_path / "data").symlink_to(root / "data")
    for name, value in (("one", 0.25), ("two", 0.75)):
        folder = tmp_path / "_build" / "runs" / name / "results"
        folder.mkdir(parents=True)
        medians = pd.DataFrame({"classifier": ["x"], "class": ["ant"], "value": [value]})
        medians.assign(low=0.1, high=0.5).to_parquet(folder / "class_medians.parquet", index=False)
        pd.DataFrame({"path": [f"photo {i}" for i in range(200)]}).to_parquet(folder / "photos.parquet")
    return tmp_path


def test_results_of_a_run(sing, two_runs):
    shown = sing("results", "--profile", "one")
    assert shown.code == 0, shown.err
    assert "0.250 [0.100, 0.500]" in shown.out
    assert "Further tables, for --table: photos." in shown.out
    whole = sing("results", "--run", "_build/runs/one", "--table", "photos")
    assert all(f"photo {i}\n" in whole.out for i in range(200))
    csv = sing("results", "--run", "two", "--table", "class_medians", "--format", "csv")
    assert csv.out == "classifier,class,value,low,high\nx,ant,0.75,0.1,0.5\n"
    assert csv.err.startswith("Run two;")
    markdown = sing("results", "--run", "two", "--table", "class_medians", "--format", "markdown")
    assert "| x | ant | 0.750 | 0.100 | 0.500 |" in markdown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "three"], ["no results of a run 'three'", "one of one, two"]),
        (
            ["--run", "one", "--table", "class_median"],
            ["no table 'class_median'", "did you mean 'class_medians'"],
        ),
        (["--run", "one", "--format", "csv"], ["without --table", "a CSV holds one table"]),
    ],
)
def test_bad_results_are_refused(sing, two_runs, arguments, words):
    assert_refused(sing("results", *arguments), *words)


def test_compare_says_by_its_exit_code_whether_runs_differ(sing, sing_process, two_runs):
    same = sing("compare", "one", "one")
    assert (same.code, same.err) == (0, "")
    assert "The runs are equal: 2 tables." in same.out
    differ = sing_process("compare", "one", "two")
    assert (differ.code, differ.err) == (1, "")
    assert "The runs differ: 1 column of 1 table; 2 tables in both." in differ.out
    row = next(line for line in differ.out.splitlines() if line.startswith("class_medians"))
    assert " ".join(row.split()) == "class_medians value 1 of 1 0.500 0.500 classifier x 1 of 1"
    assert sing("compare", "one", "two", "--tolerance", 0.5).code == 0
    assert_refused(sing("compare", "one", "three"), "no results of a run 'three'")
    assert_refused(sing("compare", "one", "two", "--tolerance", "-1"), "tolerance is -1.0")


# ------------------------------------------------------------------------------ sing extract


def extract(sing, images, out, *more):
    given = ("--classifier", "efficientnet_lite0", "--images", images, "--out", out, "--workers", 0)
    return sing("extract", *given, *more)


@pytest.fixture
def photos(tmp_path, make_picture):
    for i in range(3):
        make_picture(tmp_path / "photos" / "cat" / f"{i}.png", seed=i, size=(40, 30))
    return tmp_path / "photos"


def test_extract_and_every_damage_to_its_store(sing, sing_process, photos, tmp_path):
    (photos / "cat" / "empty.png").write_bytes(b"")
    out = tmp_path / "store"
    first = extract(sing_process, photos, out)
    assert first.code == 0, first.err
    assert first.out.endswith(f"\n3 pictures in {out}, 1 rejected.\n")
    assert "4 pictures, 1 class (cat)" in first.out
    assert "rejected: cat/empty.png: the file is empty (0 bytes)" in first.err
    assert extract(sing, photos, out).out == first.out  # a hit
    whole = {p.name: p.read_bytes() for p in out.iterdir()}

    assert_refused(extract(sing, photos, out, "--dtype", "uint8"), "other pictures, weights or settings")
    (out / "shard-00000.safetensors").write_bytes(whole["shard-00000.safetensors"][:-9])
    assert extract(sing, photos, out).out == first.out  # mended
    assert {p.name: p.read_bytes() for p in out.iterdir()} == whole
    (out / "manifest.json").write_bytes(whole["manifest.json"][:50])
    assert_refused(extract(sing, photos, out), "manifest.json", "is damaged", "delete it")


def test_extract_of_some_labels_from_any_source(sing, photos, tmp_path, make_picture):
    for i in range(3):
        make_picture(photos / "a, b" / f"{i}.png", seed=10 + i, size=(40, 30))
        make_picture(photos / "dog" / f"{i}.png", seed=20 + i, size=(40, 30))
    chosen = ("--select-classes", "a, b", "--select-classes", "dog", "--per-class", 2, "--batch-size", 3)
    assert extract(sing, photos, tmp_path / "out", *chosen).out.count("4 pictures") == 2
    assert_refused(extract(sing, photos, tmp_path / "x", "--select-classes", "dgo"), "did you mean 'dog'")
    assert not (tmp_path / "x").exists()
    (photos / "l.csv").write_text("path,label\ncat/0.png,x\n")
    assert extract(sing, photos / "l.csv", tmp_path / "csv").out.splitlines()[-1].startswith("1 pictures in")


def test_ray_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(cli_stores, "find_spec", lambda name: None)
    with pytest.raises(SingError, match=r"--engine ray needs the library `ray`: pip install -e '.\[ray\]'"):
        cli_stores._engine("ray", None, "auto")


def test_extract_of_nothing_readable(sing, tmp_path):
    given = tmp_path / "photos", tmp_path / "out"
    given[0].mkdir()
    assert_refused(extract(sing, *given), "holds no picture", "expected files")
    (given[0] / "a.jpg").write_bytes(b"no picture")
    assert_refused(extract(sing, *given), "none of 1 pictures could be read", "a.jpg")
    assert not [p for p in tmp_path.glob("out/*") if not p.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classifier": "resnet5O"}, ["unknown classifier 'resnet5O'", "did you mean"]),
        # a mistyped name is said first
        ({"classifier": "resnet5O", "images": "nowhere"}, ["unknown classifier 'resnet5O'"]),
        ({"encoder": "embeded", "images": "nowhere"}, ["did you mean 'embedded'"]),
        ({"images": "~/gone", "classifier": "efficientnet_lite0"}, ["/gone is not a folder"]),
        ({"classifier": "efficientnet_lite0", "out": "file/out"}, ["cannot write to", "choose another"]),
        ({"classifier": "efficientnet_lite0", "out": "a" * 300}, ["too long"]),
        ({"classifier": "efficientnet_lite0", "dtype": "int8"}, ["dtype 'int8' is unknown", "uint8"]),
        ({"classifier": "efficientnet_lite0", "engine": "spark"}, ["'spark'", "expected local or ray"]),
        ({"classifier": "efficientnet_lite0", "precision": "half"}, ["precision 'half' is unknown"]),
        ({"classifier": "efficientnet_lite0", "images": "none.csv"}, ["none.csv can't be read"]),
        ({"classifier": "efficientnet_lite0", "images": "hf:a@b@c"}, ["expected hf:NAME"]),
        ({}, ["exactly one of --classifier and --encoder"]),
        ({"classifier": "efficientnet_lite0", "encoder": "embedded"}, ["exactly one of"]),
    ],
)
def test_extract_with_bad_arguments(sing, photos, tmp_path, options, words):
    (tmp_path / "file").write_text("in the way")
    given = {"images": "photos", "out": "out"} | options
    found = sing("extract", *(f"--{name}={value}" for name, value in given.items()))
    assert_refused(found, *words)
    assert "~" not in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["extract"], ["nonsense"], ["run", "--nonsense"]])
def test_usage_errors_exit_with_2_too(sing, arguments):
    result = sing(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err


# --------------------------------------------------------------------------------- in process


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("a=1", 1),
        ("a=010", 10),
        ("a='010'", "010"),
        ("a=1e-1", 0.1),
        ("a=.5", 0.5),
        ("a=1:30", "1:30"),
        ("a=2020-01-31", "2020-01-31"),
        ("a=0x10", "0x10"),
        ("classes=[no, yes, on, 010, 1.10, null, ~]", ["no", "yes", "on", "010", "1.10", "null", "~"]),
        ("classes={no: off, 7: y}", {"no": "off", "7": "y"}),
        ("classes=null", None),
        ("classifiers={no: timm:resnet18}", {"no": "timm:resnet18"}),
        ("concepts=[1984, true]", ["1984", "true"]),
        ("source_class=off", "off"),
        ("images=2024", "2024"),
        ("per_class=", None),
        ("per_class=007", 7),
        ("rehearse=yes", True),
        (
            "picture_options={steps: 010, save_memory: off, x: 1e-1}",
            {"steps": 10, "save_memory": False, "x": 0.1},
        ),
        ("a=1.5", 1.5),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=[x, y]", ["x", "y"]),
        ("a={b: c}", {"b": "c"}),
        ("a=an image of a {}", "an image of a {}"),
        ("a=b=c", "b=c"),
        (" a = 2", 2),
    ],
)
def test_parse_parameters(pair, value):
    assert list(parse_parameters([pair]).values()) == [value]


def test_parse_parameters_takes_the_last_of_a_key():
    assert parse_parameters(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}
    assert parse_parameters([]) == {}


@pytest.mark.parametrize("pair", ["a", "", "=1", " =1", "a=[1", "a={b"])
def test_parse_parameters_refuses(pair):
    with pytest.raises(SingError, match="parameter "):
        parse_parameters([pair])


def test_a_path_from_home_that_no_shell_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_parameters(["images=~/photos", "classifiers=[file:~/m.py:build]"]) == {
        "images": f"{tmp_path}/photos",
        "classifiers": [f"file:{tmp_path}/m.py:build"],
    }


# --------------------------------------------------------------------------------- what help loads


def test_help_loads_no_library():
    code = (
        "import sys\nfrom sing_utils.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(*{'torch', 'pandas', 'numpy', 'papermill'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "export-head" in done.stdout
    assert done.stderr.split() == []
