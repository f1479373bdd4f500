"""Pictures from folders, tables, ImageNet, tars and data sets: what is listed, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import Fake, run
from tars import encoded, shard, write_tar

from sing_utils import SingError
from sing_utils.sources.by_name import open_source
from sing_utils.sources.folders import described, list_pictures, picture_table


def rows(source):
    return source.index.astype("str").itertuples(index=False, name=None)


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(seed))
    return path


def tree(folder, paths):
    """Pictures in a folder, each its own; opened."""
    for i, path in enumerate(paths):
        picture(folder / path, i)
    return open_source(folder)


def check_reading(source, expected):
    """Every row gives its own picture, here and in another process, also after a selection."""
    assert [source.read(i) for i in range(len(source))] == expected
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(i) for i in range(len(again))] == expected


# ----------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("path", "label", "split"),
    [
        ("a.png", "", ""),
        ("cat/a.png", "cat", ""),
        ("train/a.png", "", "train"),
        ("val/cat/a.png", "cat", "val"),
        ("evaluate/n01440764/deep/a.png", "n01440764", "evaluate"),
        ("cat/train/a.png", "cat", "train"),
        ("Train/cat /a.png", "cat", "train"),
        (" VAL/cat/a.png", "cat", "val"),
        ("test2017/cat/a.png", "cat", "test"),
        ("data/train/cat/a.png", "cat", "train"),
        ("archive/dataset/Testing/cat/a.png", "cat", "test"),
        ("training_set/training_set/cats/a.png", "cats", "train"),
        ("images/cat/a.png", "cat", ""),
        ("train/images/a.png", "", "train"),  # as for detection: no class
        ("cafe\u0301/a.png", "caf\u00e9", ""),
        ("cat/A.JPEG", "cat", ""),
        ('cat/ä ö,".webp', "cat", ""),
    ],
)
def test_layouts(tmp_path, path, label, split):
    thumbnails = ("cat/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cat/b.png")  # of a disk, of a zip
    source = tree(tmp_path, [path, "notes.txt", "cat/.hidden.png", ".trash/x.png", *thumbnails])
    assert list(rows(source)) == [(path, label, split)]
    assert list_pictures(tmp_path).to_dict("records") == [{"path": path, "label": label, "split": split}]
    assert source.file_is_picture
    assert list(source.files) == [tmp_path / path]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["train/test/cat/a.png", "train/train/cat/b.png"], [("cat", "test"), ("cat", "train")]),
        (["train/train/cat/a.png", "train/train/dog/b.png"], [("cat", "train"), ("dog", "train")]),
        (["valid/a.png", "invalid/a.png"], [("invalid", ""), ("valid", "")]),
        (["train/a.png", "car/a.png", "test/a.png"], [("car", ""), ("test", ""), ("train", "")]),
        (["train/cat/a.png", "Test/b.png"], [("", "test"), ("cat", "train")]),
        (["cat/train/a.png", "cat/test/a.png"], [("cat", "test"), ("cat", "train")]),
        (["a/train/x.png", "b/Valid/x.png"], [("a", "train"), ("b", "valid")]),
        (["a/train/x.png", "b/x.png"], [("a", ""), ("b", "")]),
        (["d/train/cat/a.png", "d/val/cat /a.png"], [("cat", "train"), ("cat", "val")]),
        (["cat/a.png", "preview.png"], [("cat", ""), ("", "")]),
        (["train/train/cat/a.png", "val/cat/a.png"], [("cat", "train"), ("cat", "val")]),
        (["flowers/rose/a.png", "flowers/tulip/a.png"], [("rose", ""), ("tulip", "")]),
        (["cat/2019/a.png", "dog/2020/a.png"], [("cat", ""), ("dog", "")]),
        # As many classes of one's own as of ImageNet: that it is not.
        (["train/n01440764/a.png", "train/my/a.png"], [("my", "train"), ("n01440764", "train")]),
        # ImageNet: one's own class beside its classes is not dropped, but a picture without a class is.
        (
            ["train/n01443537/b.png", "train/n01440764/c.png", "train/my/x.png", "train/a.png"],
            [("my", "train"), ("n01440764", "train"), ("n01443537", "train")],
        ),
        (["train/n01443537/b.png", "val/n01440764/a.png"], [("n01443537", "train"), ("n01440764", "val")]),
    ],
)
def test_a_split_is_one_only_where_all_beside_it_are(tmp_path, paths, expected):
    assert [r[1:] for r in rows(tree(tmp_path, paths))] == expected


@pytest.mark.parametrize(
    "paths",
    [
        ["train/cat/a.png", "extra/cat/a.png"],
        ["valid/left/a.png", "invalid/left/a.png"],
        ["data/train/cat/a.png", "data/val/cat/a.png", "docs/figure.png"],
        ["a/train/cat/x.png", "a/val/cat/x.png", "b/train/dog/x.png", "b/test/dog/x.png"],
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path, paths):
    with pytest.raises(SingError, match=r"expected .*: give "):
        tree(tmp_path, paths)


def test_what_was_read_is_said_in_one_line(tmp_path):
    said = described(tree(tmp_path, ["train/Cat/a.png", "train/Cat/b.png", "val/cat/a.png", "val/x.HEIC"]))
    for part in ("3 pictures", "2 classes (Cat, cat)", "train 2, val 1", "SPLIT/CLASS", "1 .heic", "JPEG"):
        assert part in said
    assert "Cat and cat are taken as different classes" in said
    assert "\n" not in said


# --------------------------------------------------------------------------- what lies beside them


STRAYS = ["data.tar", "images.zip", "metadata.parquet", "labels.csv", "x.arrow", "cifar.tar.gz"]


@pytest.mark.parametrize("name", STRAYS)
def test_pictures_come_before_archives_and_tables_beside_them(tmp_path, name):
    (tmp_path / name).write_bytes(b"no matter what")
    source = tree(tmp_path, ["cat/0.png", "dog/0.png"])
    assert [r[1] for r in rows(source)] == ["cat", "dog"]
    assert name in described(source)


def test_a_store_of_ours_beside_pictures_does_not_become_them(tmp_path):
    before = list(rows(tree(tmp_path, ["cat/0.png", "dog/0.png"])))
    run(tmp_path, tmp_path)
    source = open_source(tmp_path)
    assert list(rows(source)) == before
    assert source.aside == ""
    for path in ("cat/0.png", "dog/0.png"):
        (tmp_path / path).unlink()
    with pytest.raises(SingError, match="a feature store and no picture"):
        open_source(tmp_path)


def test_archives_and_tables_without_pictures_are_refused_together(tmp_path):
    with pytest.raises(SingError, match=r"\.parquet and \.tar.*expected one kind"):
        tree(tmp_path, ["a.tar", "b.parquet"])


def test_pictures_are_sorted_folder_by_folder_whatever_the_disk_says(tmp_path):
    source = tree(tmp_path, ["b/2.png", "b/10.png", "a/z.png", "a-b/0.png", "a/y/0.png", "c.png"])
    got = source.index["path"].tolist()
    assert got == ["a/y/0.png", "a/z.png", "a-b/0.png", "b/10.png", "b/2.png", "c.png"]
    assert got == [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*.png"))]


def test_links_are_followed_but_not_in_circles(tmp_path):
    real = picture(tmp_path / "elsewhere" / "cat" / "a.png").parent
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(real)
    (real / "back").symlink_to(tmp_path / "photos")
    assert list_pictures(tmp_path / "photos")["path"].tolist() == ["cat/a.png"]


def test_a_name_that_is_no_text_is_said(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(0))
    with pytest.raises(SingError, match=r"b'caf\\xe9.png' is not valid UTF-8"):
        open_source(tmp_path)


def test_tables_are_compact():
    n = 70_000  # more than one chunk
    table = picture_table((f"{i % 7}/{i:08d}.png", str(i % 7), "train") for i in range(n))
    assert table["path"].tolist() == [f"{i % 7}/{i:08d}.png" for i in range(n)]
    assert table["label"].astype("str").tolist() == [str(i % 7) for i in range(n)]
    assert table.memory_usage(deep=True).sum() / n < 14 + 8 + 2 + 1  # text, its offset, two codes


def test_what_is_no_source(tmp_path):
    for spec, message in [
        (tmp_path / "none", "none is not a folder"),
        ("pipe:curl x", "is a command or an address"),
        ("https://x.org/a.tar", "is a command or an address"),
        ("hf:", "no data set's name"),
        ("hf:a@b@c", "no data set's name"),
        (tmp_path, "holds no picture, expected files ending in .avif"),
    ]:
        with pytest.raises(SingError, match=message):
            open_source(spec)


# ----------------------------------------------------------------------------- selections


@pytest.fixture
def many(tmp_path):
    tree(tmp_path / "p", [f"{'val' if i % 4 else 'train'}/c{i % 3}/{i:02d}.png" for i in range(20)])
    return tmp_path / "p"


def test_selecting_labels_and_splits(many):
    source = open_source(many)
    chosen = source.select(["c0", "c2"], splits=["val"])
    assert list(rows(chosen)) == [r for r in rows(source) if r[1] in ("c0", "c2") and r[2] == "val"]
    assert set(chosen.index["label"].cat.categories) == {"c0", "c2"}
    check_reading(chosen, [(many / p).read_bytes() for p, _, _ in rows(chosen)])


def test_per_label_takes_the_smallest_hashes_and_does_not_depend_on_others(many):
    source = open_source(many)
    chosen = source.select(per_label=2)
    for label in ("c0", "c1", "c2"):
        for split in ("train", "val"):
            paths = [p for p, x, s in rows(source) if (x, s) == (label, split)]
            smallest = sorted(paths, key=lambda p: hashlib.sha256(Path(p).name.encode()).hexdigest())[:2]
            assert [p for p, x, s in rows(chosen) if (x, s) == (label, split)] == sorted(smallest)
        assert list(rows(source.select([label], 2))) == [r for r in rows(chosen) if r[1] == label]
    assert len(source.select(per_label=99)) == 20


@pytest.mark.parametrize("above", ["ILSVRC/Data/CLS-LOC", "elsewhere", ""])
def test_per_label_takes_the_same_pictures_wherever_the_folder_lies(tmp_path, above):
    tree(tmp_path / above, [f"train/{w}/{w}_{i}.JPEG" for i in range(12) for w in WNIDS[:2]])
    chosen = open_source(tmp_path).select(per_label=3)
    assert {Path(p).stem.partition("_")[2] for p, x, _ in rows(chosen) if x == WNIDS[0]} == {"2", "4", "6"}


def test_per_label_in_a_table_that_is_not_sorted(tmp_path):
    names = [f"{i:02d}.png" for i in (5, 1, 9, 3, 7)]
    tree(tmp_path, names)
    (tmp_path / "l.csv").write_text("path,label\n" + "".join(f"{n},x\n" for n in names))
    smallest = sorted(names, key=lambda p: hashlib.sha256(p.encode()).hexdigest())[:2]
    got = open_source(tmp_path / "l.csv").select(per_label=2).index["path"].tolist()
    assert got == [n for n in names if n in smallest]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"labels": ["c9"]}, "has no label 'c9'"),
        ({"splits": ["vla"]}, "has no split 'vla'.*did you mean 'val'"),
        ({"per_label": 0}, "per_label is 0"),
        ({"labels": []}, "no picture of .* is left"),
    ],
)
def test_bad_selections(many, choice, message):
    with pytest.raises(SingError, match=message):
        open_source(many).select(**choice)


# ---------------------------------------------------------------------------- a list of labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "path,label\nb.png,cat\nin/a.png,dog\n"),
        ("labels.csv", "\ufeffFilename , Class\nb.png,cat\nin/a.png,dog\n"),
        ("labels.csv", "image,size,class\nb.png,3,cat\nin\\a.png,4,dog\n"),
        ("x.tsv", "file\tlabel\n./b.png\tcat\nin/a.png\tdog\n"),
    ],
)
def test_a_table_of_labels(tmp_path, name, text):
    expected = [picture(tmp_path / "b.png", 1), picture(tmp_path / "in" / "a.png", 2)]
    picture(tmp_path / "unlisted.png")
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = open_source(tmp_path / name)
    assert list(rows(source)) == [("b.png", "cat", ""), ("in/a.png", "dog", "")]  # in the table's order
    check_reading(source, [p.read_bytes() for p in expected])


@pytest.mark.parametrize(
    ("line", "label", "split"),
    [
        ('a.png,"cat, kitty ",Train', "cat, kitty", "train"),
        ("a.png,cat ,  VAL", "cat", "val"),
        ("caf\u00e9.png, caf\u00e9, test", "caf\u00e9", "test"),
        ("a.png,cafe\u0301,holdout ", "caf\u00e9", "holdout"),
        ("a.png,007,train", "007", "train"),  # no number
        ("a.png,NA,val", "NA", "val"),
        ("a.png,,", "", ""),
    ],
)
def test_labels_and_splits_as_people_write_them(tmp_path, line, label, split):
    tree(tmp_path, ["a.png", "cafe\u0301.png"])
    (tmp_path / "l.csv").write_text(f"path,label,split\n{line}\n")
    assert [r[1:] for r in rows(open_source(tmp_path / "l.csv"))] == [(label, split)]


@pytest.mark.parametrize("names", [["IMG_1.HEIC", "b.heic"], ["a.jxl"], ["a.CR2", "b.dng"]])
def test_pictures_that_are_left_out_are_counted(tmp_path, names):
    with pytest.raises(SingError, match=r"no picture.*convert them to JPEG"):
        tree(tmp_path, names)
    source = tree(tmp_path, ["a.png"])
    assert len(source) == 1
    suffixes = [Path(n).suffix.lower() for n in names]
    assert all(f"{suffixes.count(x)} {x} files" in described(source) for x in suffixes)


def test_a_link_that_leads_nowhere_is_a_picture_that_cannot_be_read(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.png").symlink_to(tmp_path / "gone.png")
    store = run(tmp_path / "cat", tmp_path / "out")
    assert store.index["path"].tolist() == ["a.png"]
    assert store.rejects["path"].tolist() == ["b.png"]
    assert "No such file" in store.rejects["reason"].item()


@pytest.mark.parametrize(("labels", "told"), [(("0", "10"), True), (("0", "cat"), False)])
def test_labels_that_are_numbers_are_told(tmp_path, labels, told):
    assert ("names as classes=" in described(tree(tmp_path, [f"{x}/a.png" for x in labels]))) == told


def test_a_flat_folder_of_imagenets_names_needs_no_list(tmp_path):
    flat_val(tmp_path / "val", n=2)
    for folder in (tmp_path / "val", tmp_path / "renamed"):
        if not folder.exists():
            (tmp_path / "val").rename(folder)
        source = open_source(folder)
        assert [r[1:] for r in rows(source)] == [("", "")] * 2
        assert "no labels" in described(source)
        assert "no list" in described(source)


OUTSIDE = "expected paths relative to its own folder, and inside it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,kind\na.png,x\n", "has the columns path, kind, expected label or class"),
        ("name,label\na.png,x\n", "expected path or file or filename"),
        ("path,label\na.png,x\nb.png,y\n", r"lists 1 of 2 pictures that are not there, such as 'b.png'"),
        ("path,label\na.png,x\n./a.png,y\n", "lists 'a.png' 2 times"),
        ("path,label\n../a.png,x\n", f"lists '../a.png', {OUTSIDE}"),
        ("path,label\n/etc/a.png,x\n", OUTSIDE),
        ("path,label\nC:\\a.png,x\n", OUTSIDE),
        ("path,label\n,x\n", OUTSIDE),
        ("path,label\n", "lists no picture"),
        ("", "has the columns \\(none\\)"),
        ("path,label\na.png,tabby, cat\n", r"line 2, has 3 fields, expected 2"),
        ('path,label\na.png,"x\n', "can't be read as a table"),
        ("path,label,Label\na.png,x,y\n", "has 2 columns 'label'"),
        ("path;label\na.png;x\n", "path;label.*commas"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    picture(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "l.csv").write_text(text)
    with pytest.raises(SingError, match=message):
        open_source(tmp_path / "photos" / "l.csv")


# -------------------------------------------------------------------------------- ImageNet

WNIDS = ("n01440764", "n01443537", "n15075141")  # numbers 0, 1 and 999 in alphabetical order


def flat_val(folder, n=3):
    return [picture(folder / f"ILSVRC2012_val_{i:08d}.JPEG", i) for i in range(1, n + 1)]


def kaggle(root):
    for name in ("train", "val", "test"):
        (root / "ILSVRC" / "Data" / "CLS-LOC" / name).mkdir(parents=True)
    inside = root / "ILSVRC" / "Data" / "CLS-LOC"
    picture(inside / "train" / WNIDS[0] / "n01440764_1.JPEG")
    picture(inside / "test" / "ILSVRC2012_test_00000001.JPEG")
    flat_val(inside / "val")
    lines = [
        f"ILSVRC2012_val_{i:08d},{w} 1 2 3 4 {w} 5 6 7 8 "
        for i, w in ((3, WNIDS[0]), (1, WNIDS[1]), (2, WNIDS[2]))
    ]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))


def devkit(root):
    from scipy.io import savemat

    flat_val(root / "ILSVRC2012_img_val")
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    synsets = [(1, "n15075141", 0), (2, "n01440764", 0), (3, "n01443537", 0), (1001, "n00001740", 3)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    savemat(data / "meta.mat", {"synsets": np.array(synsets, kinds)})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n2\n")


def caffe(root):
    flat_val(root / "val")
    names = [(1, 1), (2, 999), (3, 0)]
    (root / "val.txt").write_text("".join(f"ILSVRC2012_val_{i:08d}.JPEG {n}\n" for i, n in names))


def synset_labels(root):
    flat_val(root / "val")
    (root / "imagenet_2012_validation_synset_labels.txt").write_text(f"{WNIDS[1]}\n{WNIDS[2]}\n{WNIDS[0]}\n")


@pytest.mark.parametrize("layout", [kaggle, devkit, caffe, synset_labels])
def test_imagenets_flat_validation_set(tmp_path, layout):
    layout(tmp_path)
    source = open_source(tmp_path)
    val = [r for r in rows(source) if r[2] == "val"]
    assert [r[1] for r in val] == [WNIDS[1], WNIDS[2], WNIDS[0]]
    assert [Path(r[0]).name for r in val] == [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]
    assert [r for r in rows(source) if r[2] != "val"] == (
        [("ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_1.JPEG", WNIDS[0], "train")]
        if layout is kaggle
        else []
    )
    check_reading(source, [(tmp_path / r[0]).read_bytes() for r in rows(source)])


@pytest.mark.parametrize("inside", ["ILSVRC/Data/CLS-LOC", "ILSVRC", "ILSVRC/Data/CLS-LOC/val"])
def test_imagenet_from_any_of_its_folders(tmp_path, inside):
    kaggle(tmp_path)
    source = open_source(tmp_path / inside)
    assert [r[1] for r in rows(source) if r[2] == "val"] == [WNIDS[1], WNIDS[2], WNIDS[0]]
    assert all((tmp_path / inside / p).is_file() for p in source.index["path"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("val.txt", None, "val is flat and nothing says what its pictures show"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 1000\n", "outside 0 to 999"),
        ("val.txt", "what\n", "can't be read as ImageNet's validation labels"),
        ("val.txt", "dog.png 3\n", "can't be read as.*'dog.png'"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 1\n", "00000002.JPEG, for which"),
        ("LOC_val_solution.csv", "a,b\n1,2\n", "LOC_val_solution.csv can't be read"),
        ("val/cat.png", "", "holds cat.png, for which there is no label"),
    ],
)
def test_damaged_imagenets(tmp_path, file, text, message):
    caffe(tmp_path)
    (tmp_path / file).unlink() if text is None else (tmp_path / file).write_text(text)
    with pytest.raises(SingError, match=message):
        open_source(tmp_path)


# -------------------------------------------------------------------------------------- tars


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_shards(tmp_path, kind):
    for number in range(2):
        shard(tmp_path, number, format=kind)
    expected = [
        ("flowers-train-000.tar/0.png", "7", "train"),
        ("flowers-train-000.tar/sub/0.png", "rose", "train"),
        ("flowers-train-000.tar/n01440764_1.seg.PNG", "n01440764", "train"),
        (f"flowers-train-000.tar/{'long' * 60}.png", "", "train"),
    ]
    for spec in (tmp_path, f"{tmp_path}/*.tar", f"{tmp_path}/flowers-train-{{000..001}}.tar"):
        source = open_source(spec)
        assert list(rows(source))[:4] == expected
        assert not source.file_is_picture
        check_reading(source, [encoded(i) for i in (0, 1, 2, 3, 10, 11, 12, 13)])
    assert len(list(source.files)) == 2
    chosen = source.select(["rose"])
    check_reading(chosen, [encoded(1), encoded(11)])
    assert list(open_source(tmp_path / "flowers-train-001.tar").files) == [tmp_path / "flowers-train-001.tar"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flowers-train-000.tar", "flowers-train-001.tar"]


def test_a_tar_of_folders_has_their_labels(tmp_path):
    write_tar(tmp_path / "a.tar", [("data/train/cat/0.png", encoded(0)), ("data/val/dog/0.png", encoded(1))])
    source = open_source(tmp_path / "a.tar")
    assert [r[1:] for r in rows(source)] == [("cat", "train"), ("dog", "val")]
    check_reading(source, [encoded(0), encoded(1)])
    write_tar(tmp_path / "b-train.tar", [("cat/0.png", encoded(0))])
    write_tar(tmp_path / "b-TEST.tar", [("cat/1.png", encoded(1)), ("dog/1.png", encoded(2))])
    source = open_source(f"{tmp_path}/b-*.tar")
    assert [r[1:] for r in rows(source)] == [("cat", "test"), ("dog", "test"), ("cat", "train")]


def test_a_shard_without_a_split_beside_others_is_refused(tmp_path):
    for name in ("valid", "invalid"):
        write_tar(tmp_path / f"{name}.tar", [("0.png", encoded(0))])
    with pytest.raises(SingError, match=r"valid.tar names a split and invalid.tar does not"):
        open_source(tmp_path)


def test_braces(tmp_path):
    from sing_utils.sources.tars import expand_braces

    assert expand_braces("a{0..1}/{x,y}.tar") == ["a0/x.tar", "a0/y.tar", "a1/x.tar", "a1/y.tar"]
    assert expand_braces("{09..11}") == ["09", "10", "11"]
    for bad in ("{x}.tar", "{3..1}.tar", "{0..99999999}.tar"):
        with pytest.raises(SingError, match="expected a range|expected at most"):
            expand_braces(bad)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("./._0.png", b"x"), ("./0.png", None), ("./._0.cls", b"\0"), ("./0.cls", b"cat")], ["cat"]),
        ([("cat/a.1.png", None), ("cat/a.2.png", None), ("dog/a.1.png", None)], ["cat", "cat", "dog"]),
        ([("set/cat/._a.png", b"x"), ("set/cat/a.png", None), ("set/dog/a.png", None)], ["cat", "dog"]),
        ([("cat/0.png", None), ("cat/0.json", b'{"caption": "x"}')], ["cat"]),
        ([("0.png", None), ("0.json", b'{"label": 3.0}')], ["3"]),
        ([("0.png", None), ("0.json", b'{"label": 2.5}')], ["2.5"]),
    ],
)
def test_labels_of_tars_as_people_make_them(tmp_path, members, expected):
    write_tar(tmp_path / "x.tar", [(n, encoded(0) if data is None else data) for n, data in members])
    assert open_source(tmp_path / "x.tar").index["label"].tolist() == expected


def info(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../a.png", b"x")], "holds '../a.png', expected names that stay inside"),
        ([("/etc/a.png", b"x")], "names that stay inside"),
        ([(info("a.png", tarfile.SYMTYPE, "/etc/passwd"), b"")], "as a link"),
        ([(info("a.png", tarfile.LNKTYPE, "b"), b"")], "as a link"),
        ([(info("a.png", tarfile.FIFOTYPE), b"")], "as a link"),
        ([(info("a.cls", tarfile.CHRTYPE), b"")], "as a link"),
        ([("a.png", b"x"), ("a.png", b"y")], "holds a.png and a.png, expected one picture a key"),
        ([("a.left.png", b"x"), ("a.right.png", b"y")], "expected one picture a key"),
        ([("c/a.1.png", b"x"), ("c/a.2.png", b"y"), ("c/a.cls", b"y")], "expected one picture a key"),
        ([("c/a.1.png", b"x"), ("c/a.2.png", b"y"), ("c/a.2.png", b"y")], "expected one picture a key"),
        ([("a.png", b"x"), ("a.json", b"{")], "holds 'a.json', which is no label"),
        ([("a.png", b"x"), ("a.cls", b"\xff")], "holds 'a.cls', which is no label"),
        ([("a.txt", b"x")], "holds no picture"),
    ],
)
def test_tars_that_are_refused(tmp_path, members, message):
    with pytest.raises(SingError, match=message):
        open_source(write_tar(tmp_path / "x.tar", members))


def test_links_and_devices_beside_the_pictures_are_left_out(tmp_path):
    members = [
        (info("x", tarfile.SYMTYPE, "/etc"), b""),
        (info("d/", tarfile.DIRTYPE), b""),
        ("x/a.png", encoded(1)),
    ]
    source = open_source(write_tar(tmp_path / "x.tar", members))
    check_reading(source, [encoded(1)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tar"]


def sparse(tmp_path):
    member = info("a.png", tarfile.GNUTYPE_SPARSE)
    return write_tar(tmp_path / "x.tar", [(member, b"x" * 512)]).read_bytes()


def negative(tmp_path):
    """A size of -512 in base 256: it points back to its own header."""
    data = bytearray(write_tar(tmp_path / "x.tar", [("a.png", b"")]).read_bytes())
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda p: gzip.compress(shard(p, 0).read_bytes()), "can't be read as a plain .tar"),
        (lambda p: b"", "can't be read as a plain .tar|holds no picture"),
        (lambda p: b"no tar" * 500, "can't be read as a plain .tar"),
        (
            lambda p: write_tar(p / "x.tar", [("a.png", b"x" * 9000)]).read_bytes()[:4000],
            "cut short at 'a.png'",
        ),
        (
            lambda p: write_tar(p / "x.tar", [("a.png", b"x"), ("b.png", b"x")]).read_bytes()[:1100],
            "no end-of-archive mark",
        ),
        (sparse, "as a link, device or sparse file|damaged|plain .tar"),
        (negative, "damaged or cut short at 'a.png'|plain .tar"),
    ],
    ids=["gzip", "empty", "text", "cut", "cut in a header", "sparse", "negative size"],
)
def test_damaged_tars(tmp_path, data, message):
    (tmp_path / "y.tar").write_bytes(data(tmp_path))
    with pytest.raises(SingError, match=message):
        open_source(tmp_path / "y.tar")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.tar", "there is no file .*none.tar"),
        ("none*.tar", "matches no file"),
        ("{a,a}.tar", "names a shard twice"),
        ("x.tar.gz", "there is no file"),
    ],
)
def test_missing_tars(tmp_path, spec, message):
    write_tar(tmp_path / "a.tar", [("a.png", encoded(0))])
    with pytest.raises(SingError, match=message):
        open_source(f"{tmp_path}/{spec}")


def test_a_tar_that_shrinks_after_it_was_listed_is_a_reject_not_a_wrong_picture(tmp_path):
    source = open_source(shard(tmp_path, 0))
    with open(tmp_path / "flowers-train-000.tar", "r+b") as file:
        file.truncate(int(source.offset[1]) + 5)
    assert source.read(0) == encoded(0)
    with pytest.raises(OSError, match="was cut short"):
        source.read(1)


# ------------------------------------------------------------------------------ Hugging Face


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The library `datasets`, offline, with its cache in this test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


def saved(hub, columns, types, pictures=(0, 1)):
    """A data set with a column of pictures that lie in it; None is an empty cell."""
    cells = [None if i is None else {"bytes": encoded(i), "path": None} for i in pictures]
    features = hub.Features({"image": hub.Image(), **types})
    return hub.Dataset.from_dict({"image": cells, **columns}, features=features)


@pytest.mark.parametrize(
    ("columns", "kinds", "labels"),
    [
        ({"label": ["cat", "dog"], "site": [0, 0]}, {"label": "string"}, ["cat", "dog"]),
        ({"class": [3.0, None], "site": [0, 0]}, {"class": "float32"}, ["3", ""]),
        ({"kind": ["cat", "dog"], "site": [1, 0]}, {"kind": "string"}, ["Y", "X"]),
        ({"label": [1, 0], "fine_label": [0, 0]}, {}, ["Y", "X"]),
        ({"wnid": [3, 4]}, {"wnid": "int64"}, ["3", "4"]),
        ({}, {}, ["", ""]),
    ],
)
def test_the_column_of_labels_goes_by_its_name(hub, tmp_path, columns, kinds, labels):
    named = hub.ClassLabel(names=["X", "Y"])
    types = {k: hub.Value(kinds[k]) if k in kinds else named for k in columns}
    saved(hub, columns, types).save_to_disk(tmp_path / "d")
    source = open_source(tmp_path / "d")
    assert source.index["label"].tolist() == labels
    check_reading(source, [encoded(0), encoded(1)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [["a"], ["a", "b"]]}, "more than one label a picture in its column label"),
        ({"mask": [encoded(0)] * 2}, "pictures in photo and mask, expected one"),
    ],
)
def test_a_data_set_that_could_be_read_in_two_ways(hub, tmp_path, columns, message):
    pd.DataFrame({"photo": [encoded(0), encoded(1)], **columns}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(SingError, match=message):
        open_source(tmp_path)


def as_parquet(datasets, folder):
    types = {"caption": datasets.Value("string"), "label": datasets.ClassLabel(names=["rose", "tulip"])}
    folder.mkdir()
    for split, seeds in (("train", range(4)), ("test", range(4, 6))):
        columns = {"caption": [str(i) for i in seeds], "label": [i % 2 if i else -1 for i in seeds]}
        saved(datasets, columns, types, seeds).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def test_a_data_set_with_its_pictures_inside(tmp_path, hub):
    folder = as_parquet(hub, tmp_path / "flowers")
    source = open_source(f"hf:{folder}")
    assert list(rows(source)) == [
        ("train/00000000", "", "train"),  # -1 is "unknown"
        ("train/00000001", "tulip", "train"),
        ("train/00000002", "rose", "train"),
        ("train/00000003", "tulip", "train"),
        ("test/00000000", "rose", "test"),
        ("test/00000001", "tulip", "test"),
    ]
    check_reading(source, [encoded(i) for i in range(6)])
    check_reading(source.select(["tulip"], splits=["test"]), [encoded(5)])
    check_reading(open_source(f"hf:{folder}#test"), [encoded(4), encoded(5)])
    assert list(rows(open_source(folder))) == list(rows(source))  # a folder of Parquet, without hf:
    assert all(f.is_file() for f in source.files)


def test_a_data_set_that_points_to_files(tmp_path, hub):
    for i, label in enumerate(["rose", "tulip", "rose"]):
        picture(tmp_path / "flowers" / "train" / label / f"{i}.png", i)
    source = open_source(f"hf:{tmp_path / 'flowers'}#train")
    assert [r[1] for r in rows(source)] == ["rose", "rose", "tulip"]
    check_reading(source, [encoded(0), encoded(2), encoded(1)])
    assert tmp_path / "flowers" / "train" / "tulip" / "1.png" in list(source.files)
    store = run(source, tmp_path / "out")
    assert store.index["label"].tolist() == ["rose", "rose", "tulip"]


def test_what_save_to_disk_wrote_is_read(tmp_path, hub):
    def made(seeds):
        return saved(
            hub, {"label": [i % 2 for i in seeds]}, {"label": hub.ClassLabel(names=["a", "b"])}, seeds
        )

    made(range(3)).save_to_disk(tmp_path / "one")
    hub.DatasetDict({"train": made(range(4)), "validation": made([4, 5])}).save_to_disk(tmp_path / "two")
    for spec in (tmp_path / "one", f"hf:{tmp_path / 'one'}"):
        source = open_source(spec)
        assert [r[1:] for r in rows(source)] == [("a", ""), ("b", ""), ("a", "")]
        check_reading(source, [encoded(i) for i in range(3)])
    source = open_source(tmp_path / "two")
    assert [r[2] for r in rows(source)] == ["train"] * 4 + ["validation"] * 2
    check_reading(source, [encoded(i) for i in range(6)])
    check_reading(open_source(f"hf:{tmp_path / 'two'}#validation"), [encoded(4), encoded(5)])
    with pytest.raises(SingError, match="train, validation"):
        open_source(f"hf:{tmp_path / 'two'}#test")


@pytest.mark.parametrize("hf", ["hf:", ""])
@pytest.mark.parametrize(
    ("name", "split"),
    [("test-00000-of-00001.parquet", "test"), ("flowers.parquet", ""), ("Mine.PARQUET", "")],
)
def test_a_single_parquet_file(tmp_path, hub, hf, name, split):
    made = as_parquet(hub, tmp_path / "flowers") / "test-00000-of-00001.parquet"
    file = made.rename(tmp_path / name)
    source = open_source(f"{hf}{file}")
    assert [r[1:] for r in rows(source)] == [("rose", split), ("tulip", split)]
    check_reading(source, [encoded(4), encoded(5)])
    assert all(f.is_file() for f in source.files)
    with pytest.raises(SingError, match="#train"):
        open_source(f"hf:{file}#train")


@pytest.mark.parametrize("cell", [lambda i: encoded(i), lambda i: {"bytes": encoded(i), "path": None}])
@pytest.mark.parametrize("column", ["image", "jpg"])
def test_parquet_as_pandas_writes_it(tmp_path, hub, cell, column):
    file = tmp_path / "set" / "x.parquet"
    file.parent.mkdir()
    pd.DataFrame({"label": ["a", "b"], column: [cell(0), cell(1)]}).to_parquet(file)
    for spec in (file, file.parent):
        source = open_source(spec)
        assert source.index["label"].tolist() == ["a", "b"]
        check_reading(source, [encoded(0), encoded(1)])


@pytest.mark.parametrize("text", [b"", b"PAR1", b"no Parquet at all"])
def test_parquet_without_pictures_is_answered(tmp_path, hub, text):
    (tmp_path / "x.parquet").write_bytes(text)
    with pytest.raises(SingError, match="can't be loaded"):
        open_source(tmp_path / "x.parquet")
    pd.DataFrame({"path": ["a.png"], "label": ["a"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(SingError, match="none of pictures.*csv"):
        open_source(tmp_path / "y.parquet")


def test_a_row_that_points_to_another_file_of_this_machine_is_a_reject(tmp_path, hub):
    secret = picture(tmp_path / "set of secrets.png")  # begins as the folder of the set does
    (tmp_path / "set").mkdir()
    paths = [str(secret), f"{tmp_path}/set/../{secret.name}"]
    cells = [{"bytes": encoded(0), "path": None}, None, *({"bytes": None, "path": p} for p in paths)]
    data = hub.Dataset.from_dict({"image": cells}, features=hub.Features({"image": hub.Image()}))
    data.to_parquet(str(tmp_path / "set" / "train.parquet"))
    assert open_source(f"hf:{tmp_path / 'set'}").read(1) == b""  # an empty cell is an empty picture
    store = run(f"hf:{tmp_path / 'set'}", tmp_path / "out")
    assert len(store) == 1
    outside = "it can't be read: it points outside of its data set"
    assert store.rejects["reason"].tolist() == ["the file is empty (0 bytes)", outside, outside]


@pytest.mark.parametrize(
    ("spec", "message"),
    [("hf:{}#vla", "can't be loaded .*vla"), ("hf:nobody/nothing-of-that-name", "can't be loaded")],
)
def test_bad_data_sets(tmp_path, hub, spec, message):
    with pytest.raises(SingError, match=message):
        open_source(spec.format(as_parquet(hub, tmp_path / "flowers")))


def test_no_code_of_a_data_set_runs(tmp_path, hub):
    picture(tmp_path / "evil" / "a.png")
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with contextlib.suppress(SingError):
        open_source(f"hf:{tmp_path / 'evil'}")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------- through a whole extraction


def test_rows_labels_and_features_of_a_tar_belong_together(tmp_path):
    store = run(shard(tmp_path / "tars", 0), tmp_path / "out")
    assert store.index["label"].tolist() == ["7", "rose", "n01440764", ""]
    own = [Fake().of(picture(tmp_path / "one.png", seed)) for seed in range(4)]
    assert np.allclose(store.read("features"), np.stack(own))
