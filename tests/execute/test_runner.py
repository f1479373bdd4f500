"""The runner: parameters are checked, only what changed runs, and a failure spoils nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
import yaml
from fakes import Fake
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from safetensors.torch import save_file

from sing_utils import SingError
from sing_utils.execute import notebooks
from sing_utils.execute.notebooks import _inputs_key, find_notebooks, run_profile
from sing_utils.features.extraction import extract
from sing_utils.files import locked
from sing_utils.models.encoders import load_encoder
from sing_utils.runs.profiles import load_profile
from sing_utils.runs.run import claim_folder

PARAMETERS = 'profile = "small"\nrun_dir = None'
PROFILE = {
    "name": "small",
    "classifiers": ["efficientnet_lite0"],
    "concepts": ["a", "b"],
    "features": "features",
}


def write_notebook(path, *cells, parameters=PARAMETERS):
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nb = new_notebook(cells=[first, *(new_code_cell(c) for c in cells)], metadata=kernel)
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nb, path)


# Appends its name to a log, so that one sees what ran, in which order and with what.
LOG = "with open('../log.txt', 'a') as log:\n    print({name!r}, profile, run_dir, file=log)"


@pytest.fixture
def project(tmp_path):
    """A small checkout: two notebooks without any heavy import, a package, two stores."""
    for name, text in {
        "data/profiles/small.yaml": yaml.safe_dump(PROFILE),
        "sing_utils/method/head.py": "# code\n",
        "sing_utils/cli/__init__.py": "# how a command reads\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for i, label in enumerate(("cat", "dog")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "photos" / label / "x.png")
    for name in ("efficientnet_lite0", "embedded"):
        extract(Fake(), tmp_path / "photos", tmp_path / "features" / name, workers=0, progress=False)
    for name in ("00_one", "01_two"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", LOG.format(name=name), f"'result of {name}'")
    return tmp_path


def run(root, **options):
    return [e.ran for e in run_profile(root, "small", progress=False, **options)]


def log(root):
    file = root / "log.txt"
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def no_kernel(monkeypatch):
    """Stand-in for papermill's execution, where only the decision to run is tested."""
    calls = []

    def execute(source, target, **options):
        calls.append((os.path.basename(source), options["parameters"]))
        nbformat.write(nbformat.read(source, 4), target)

    monkeypatch.setattr("sing_utils.execute.notebooks.papermill.execute_notebook", execute)
    return calls


# ---------------------------------------------------------------------------- with a kernel


def test_a_run_with_a_real_kernel_and_what_a_failure_leaves(project):
    executed = run_profile(project, "small", progress=False)
    folder = project / "_build" / "runs" / "small"
    assert [e.path for e in executed] == [folder / "executed" / f"{n}.ipynb" for n in ("00_one", "01_two")]
    assert sorted(log(project)) == [f"{n} small _build/runs/small" for n in ("00_one", "01_two")]
    good = executed[1].path.read_bytes()
    assert b"result of 01_two" in good
    stages = json.loads((folder / "results" / "run.json").read_text())["stages"]
    assert all(s["seconds"] > 0 and s["ended"].endswith("Z") for s in stages.values())
    assert run(project) == [False, False]

    # A cell that fails: one sentence, the last good copy is kept, nothing half-written beside it.
    source = project / "notebooks" / "01_two.ipynb"
    before = source.read_text()
    write_notebook(source, "ok = 1", "raise ValueError('the reason')")
    with pytest.raises(SingError, match=r"01_two.ipynb stopped in cell \d: ValueError: the reason .*failed"):
        run(project)
    assert executed[1].path.read_bytes() == good
    assert sorted(p.name for p in (folder / "executed").glob("*.ipynb")) == ["00_one.ipynb", "01_two.ipynb"]
    assert "the reason" in (folder / "failed" / "01_two.ipynb").read_text()

    # The failure is not remembered as a success, also where its source is as it was.
    source.write_text(before)
    assert run(project) == [False, True]


AT_WORK = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path("../pid").write_text(str(child.pid))
time.sleep(300)
"""
COMMAND = """
import sys
from sing_utils import cli
sys.argv = ["sing", "run", "--profile", "small"]
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_ctrl_c_ends_what_is_at_work_and_keeps_what_is_finished(project):
    source = project / "notebooks" / "01_two.ipynb"
    write_notebook(source, AT_WORK)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    log = project / "log"  # no pipe, which would stay open as long as anything that was begun
    with log.open("w") as err:
        process = subprocess.Popen([sys.executable, "-c", COMMAND], cwd=project, env=environment, stderr=err)
    executed = project / "_build" / "runs" / "small" / "executed"
    while not ((project / "pid").exists() and (executed / ".00_one.key").exists()):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=90) == 130
    told = log.read_text()
    assert "Traceback" not in told
    assert "Stopped" in told
    assert [p.name for p in executed.glob("*.ipynb")] == ["00_one.ipynb"]
    child = int((project / "pid").read_text())  # what the notebook began, too
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    write_notebook(source)
    assert run(project) == [False, True]


def test_a_kernel_that_is_killed_is_one_sentence(project):
    write_notebook(project / "notebooks" / "01_two.ipynb", "import os\nos._exit(1)")
    with pytest.raises(SingError, match="01_two.ipynb .*memory"):
        run(project)


# ---------------------------------------------------------------------------- what reruns


def touch_notebook(root, name="01_two"):
    write_notebook(root / "notebooks" / f"{name}.ipynb", "'something else'")


def touch_first_notebook(root):  # no notebook needs another
    touch_notebook(root, "00_one")


def touch_code(root):
    (root / "sing_utils" / "head.py").write_text("# other code\n")


def touch_store(root):
    manifest = root / "features" / "embedded" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")


def touch_profile(root):
    (root / "data" / "profiles" / "small.yaml").write_text(yaml.safe_dump(PROFILE | {"seed": 5}))


def touch_encoder(root):
    (root / "data" / "embedded" / "encoder").mkdir(parents=True)
    (root / "data" / "embedded" / "encoder" / "w.safetensors").write_bytes(b"1")


def touch_photo(root):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(root / "single.png")


def touch_second_encoder(root):
    (root / "second" / "tokenizer.json").write_text("{}")


def touch_copy(root):  # one that is missing is made again
    (root / "_build" / "runs" / "small" / "executed" / "00_one.ipynb").unlink()


def touch_prose(root):
    (root / "README.md").write_text("words")


def touch_dates(root):
    for path in root.rglob("*"):
        if "_build" not in path.parts:
            os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (touch_notebook, [False, True]),
        (touch_first_notebook, [True, False]),
        (touch_code, [True, True]),
        (touch_store, [True, True]),
        (touch_profile, [True, True]),
        (touch_encoder, [True, True]),
        (touch_copy, [True, False]),
        (touch_prose, [False, False]),
        (touch_dates, [False, False]),  # contents count, not dates
    ],
)
def test_only_what_changed_runs_again(project, no_kernel, change, expected):
    assert run(project) == [True, True]
    assert run(project) == [False, False]
    change(project)
    assert run(project) == expected
    assert run(project) == [False, False]


@pytest.mark.parametrize("library", ["torch", "scipy"])
def test_libraries_count(project, monkeypatch, library):
    before = _inputs_key(project, load_profile("planted"), {})
    known = notebooks._version
    monkeypatch.setattr(notebooks, "_version", lambda name: "0.0.1" if name == library else known(name))
    assert _inputs_key(project, load_profile("planted"), {}) != before


@pytest.mark.parametrize("change", [touch_photo, touch_second_encoder])
def test_single_photos_and_the_second_encoder_count(project, no_kernel, monkeypatch, change):
    Image.new("RGB", (4, 4)).save(project / "single.png")
    (project / "second").mkdir()
    (project / "second" / "w.safetensors").write_bytes(b"1")
    given = {"overrides": {"photos": ["single.png"], "second_encoder": "karlo:second"}}
    monkeypatch.setattr(notebooks, "_require_inputs", lambda *_: None)
    assert run(project, **given) == [True, True]
    assert run(project, **given) == [False, False]
    change(project)
    assert run(project, **given) == [True, True]


@pytest.mark.parametrize("pictures", [False, True])
def test_a_second_encoder_that_is_built_on_the_classifier_is_refused_before_anything_runs(
    project, no_kernel, monkeypatch, pictures
):
    whole = load_encoder("embedded")
    alone = whole.only("efficientnet_lite0")
    monkeypatch.setattr(notebooks, "require_fit", lambda *_, **__: None)
    monkeypatch.setattr(notebooks, "load_encoder", lambda name, **_: whole if name == "embedded" else alone)
    shutil.copytree(project / "features" / "embedded", project / "features" / "planted")
    given = {"second_encoder": "planted"} | ({"images": "photos"} if pictures else {})
    if not pictures:  # whose store says of which network it is
        manifest = project / "features" / "efficientnet_lite0" / "manifest.json"
        said = json.loads(manifest.read_text())
        said["extractor"] |= {"name": "efficientnet_lite0"}
        manifest.write_text(json.dumps(said))
    with pytest.raises(SingError, match="is the judged classifier 'efficientnet_lite0'"):
        run(project, overrides=given)
    assert no_kernel == []
    assert run(project, overrides=given | {"controls": []}) == [True, True]


def test_parameters_make_a_run_of_their_own_and_reach_the_notebooks(project, no_kernel):
    assert run(project) == [True, True]
    assert run(project, overrides={"seed": 1}) == [True, True]
    assert run(project, overrides={"seed": 1}) == [False, False]
    assert run(project, overrides={"seed": 2}) == [True, True]
    assert run(project) == [False, False]
    plain, *others = sorted(p.relative_to(project).as_posix() for p in project.glob("_build/runs/*"))
    assert plain == "_build/runs/small"
    assert [o[: len(plain) + 7] for o in others] == [f"{plain}-seed-1", f"{plain}-seed-2"]
    given = {"profile": f"{others[1]}/profile.yaml", "run_dir": others[1]}
    assert ("01_two.ipynb", given) in no_kernel
    resolved = yaml.safe_load((project / others[1] / "profile.yaml").read_text())
    assert (resolved["seed"], resolved["name"]) == (2, "small")


def test_notebooks_run_side_by_side(project, monkeypatch):
    """Each waits for the other to have begun: one after the other they would wait in vain."""
    begun = {name: threading.Event() for name in ("00_one", "01_two")}

    def execute(source, target, **_options):
        mine = Path(source).stem
        begun[mine].set()
        assert all(event.wait(20) for event in begun.values())
        nbformat.write(nbformat.read(source, 4), target)

    monkeypatch.setattr("sing_utils.execute.notebooks.papermill.execute_notebook", execute)
    assert [e.ran for e in run_profile(project, "small", progress=False, jobs=2)] == [True, True]


def test_a_picture_that_changes_runs_again(project, no_kernel, make_picture):
    file = make_picture(project / "photos" / "cat" / "a.png")
    given = {"overrides": {"images": "photos"}}
    assert run(project, **given) == [True, True]
    assert run(project, **given) == [False, False]
    make_picture(file, seed=1, size=(20, 20))
    assert run(project, **given) == [True, True]
    make_picture(project / "photos" / "cat" / "b.png", seed=2)
    assert run(project, **given) == [True, True]


def test_only_and_force(project, no_kernel):
    assert run(project, only=["01"]) == [True]
    assert run(project) == [True, False]
    assert run(project, force=True) == [True, True]
    assert run(project, only=["00", "01_two"]) == [False, False]
    with pytest.raises(SingError, match="no notebook '07', expected one of 00_one, 01_two"):
        run(project, only=["00", "07"])


# -------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [('profile = "small"', "run_dir"), ("run_dir = None", "profile"), ("x = 1", "profile")],
)
def test_a_notebook_without_the_parameter_is_refused_before_any_runs(project, no_kernel, parameters, missing):
    write_notebook(project / "notebooks" / "01_two.ipynb", parameters=parameters)
    with pytest.raises(SingError, match=f"01_two.ipynb takes no parameter '{missing}'"):
        run(project)
    assert no_kernel == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"root": "x"}, "unknown key 'root'"),
        ({"images": "photos/cat"}, "expected a label for each"),
        ({"images": "nowhere"}, "nowhere is not a folder"),
        ({"features": "nowhere"}, "nowhere/efficientnet_lite0 holds no manifest.json"),
        ({"photos": ["nosuch.jpg"]}, "'nosuch.jpg' is no file"),
        ({"photos": ["chelsea", "photos"]}, "'photos' is no file"),
        ({"photos": ["data/profiles/small.yaml"]}, "small.yaml can't be read as a picture"),
        ({"classes": ["cat", "bird"]}, "no picture of 'bird', expected some of cat, dog; did you mean"),
        ({"classes": ["dogg"], "images": "photos"}, "did you mean 'dog'"),
    ],
)
def test_bad_parameters_stop_before_any_notebook(project, no_kernel, overrides, message):
    with pytest.raises(SingError, match=message):
        run(project, overrides=overrides)
    assert no_kernel == []
    assert not (project / "_build").exists()


def test_notebooks_are_found_in_order(project):
    write_notebook(project / "notebooks" / "10_ten.ipynb")
    write_notebook(project / "notebooks" / "draft.ipynb")
    assert [p.stem for p in find_notebooks(project)] == ["00_one", "01_two", "10_ten"]
    shutil.rmtree(project / "notebooks")
    with pytest.raises(SingError, match="holds no numbered notebook"):
        find_notebooks(project)


def test_classes_are_told_by_the_names_that_pick_them(project, no_kernel):
    named = PROFILE | {"classes": {"cat": "tabby cat", "dog": "sheep dog"}}
    (project / "data" / "profiles" / "small.yaml").write_text(yaml.safe_dump(named))
    sentence = "no picture of 'tabbycat', expected some of sheep dog, tabby cat; did you mean 'tabby cat'"
    for others in ({}, {"images": "photos"}):
        with pytest.raises(SingError, match=sentence):
            run(project, overrides={"classes": ["tabbycat"], **others})
        assert run(project, overrides={"classes": ["tabby cat"], **others}) == [True, True]


def test_what_a_run_noted_of_its_models_goes_when_its_inputs_change(project, no_kernel):
    heads = project / "_build" / "runs" / "small" / "artifacts" / "heads"
    run_profile(project, "small", progress=False)
    heads.mkdir(parents=True)
    run_profile(project, "small", progress=False)
    assert heads.is_dir()
    touch_profile(project)
    run_profile(project, "small", progress=False)
    assert not heads.exists()


def test_a_table_that_no_notebook_saves_any_more_goes(project, no_kernel):
    run(project)
    results = project / "_build" / "runs" / "small" / "results"
    (results / "old.parquet").write_bytes(b"")
    os.utime(results / "old.parquet", (1, 1))
    touch_notebook(project)
    assert run(project) == [False, True]  # the other notebook may have saved it
    assert (results / "old.parquet").exists()
    touch_code(project)
    assert run(project) == [True, True]
    assert not (results / "old.parquet").exists()


# ----------------------------------------------------------------------------------- run.json


def record_file(root):
    return root / "_build" / "runs" / "small" / "results" / "run.json"


def test_a_run_leaves_a_record_and_one_without_changes_keeps_it(project, no_kernel):
    run(project, only=["01"])
    stages = json.loads(record_file(project).read_text())["stages"]
    assert list(stages) == ["01_two"]
    run(project)
    record = json.loads(record_file(project).read_text())
    assert [s["current"] for s in record["stages"].values()] == [True, True]
    assert record["parameters"]["seed"] == 0
    assert {"scipy", "pyarrow", "torch", "Python"} <= set(record["versions"])
    before = record_file(project).stat().st_mtime_ns
    assert run(project) == [False, False]
    assert record_file(project).stat().st_mtime_ns == before
    record_file(project).unlink()
    assert run(project) == [False, False]
    assert json.loads(record_file(project).read_text()) == record


def test_a_part_of_a_run_with_other_parameters_is_refused(project, no_kernel):
    run(project, run_dir="_build/runs/mine")
    given = {"run_dir": "_build/runs/mine", "overrides": {"seed": 1}}
    with pytest.raises(SingError, match="mine holds a run with seed 0, expected one with 1"):
        run(project, only=["01"], **given)
    assert run(project, **given) == [True, True]


def test_a_failure_leaves_a_record_of_what_is_there(project, no_kernel, monkeypatch):
    run(project)

    def fail(*_arguments, **_options):
        raise PapermillExecutionError(1, 1, "", "ValueError", "no", [])

    monkeypatch.setattr("sing_utils.execute.notebooks.papermill.execute_notebook", fail)
    touch_first_notebook(project)
    with pytest.raises(SingError, match="00_one.ipynb stopped"):
        run(project)
    stages = json.loads(record_file(project).read_text())["stages"]
    assert {name: s["current"] for name, s in stages.items()} == {"00_one": False, "01_two": True}


def test_after_a_failure_nothing_more_is_begun(project, monkeypatch):
    for name in ("02_three", "03_four"):
        write_notebook(project / "notebooks" / f"{name}.ipynb")
    begun = []

    def execute(source, target, **_options):
        begun.append(Path(source).stem)
        if len(begun) == 1:
            raise PapermillExecutionError(1, 1, "", "ValueError", "no", [])
        time.sleep(1)  # the next one may have begun before the failure was seen
        nbformat.write(nbformat.read(source, 4), target)

    monkeypatch.setattr("sing_utils.execute.notebooks.papermill.execute_notebook", execute)
    with pytest.raises(SingError, match="00_one.ipynb stopped"):
        run(project, jobs=1)
    assert "03_four" not in begun


# ---------------------------------------------------------------------------- two at once


@pytest.mark.parametrize(
    "second",
    [{}, {"overrides": {"seed": 3}}, {"only": ["00"]}, {"force": True}],
    ids=["the same", "other parameters", "a part", "forced"],
)
def test_a_second_run_in_a_folder_is_refused_while_the_first_is_at_work(
    project, no_kernel, monkeypatch, second
):
    """Without a lock the second one's claim would stand in the record of the first one's tables."""
    meanwhile = []
    # One that waited for the first would wait for ever: it is to fail.
    monkeypatch.setattr("sing_utils.files.FileLock", partial(FileLock, timeout=5))

    def execute(source, target, **options):
        with pytest.raises(SingError, match="mine is being written by another process") as refused:
            run(project, run_dir="_build/runs/mine", **second)
        meanwhile.append(str(refused.value))
        nbformat.write(nbformat.read(source, 4), target)

    monkeypatch.setattr("sing_utils.execute.notebooks.papermill.execute_notebook", execute)
    assert run(project, run_dir="_build/runs/mine", jobs=1) == [True, True]
    assert len(meanwhile) == 2
    folder = project / "_build" / "runs" / "mine"
    assert json.loads((folder / ".parameters.json").read_text())["seed"] == 0
    assert json.loads((folder / "results" / "run.json").read_text())["parameters"]["seed"] == 0
    monkeypatch.undo()
    assert not (folder / ".lock").exists()


def test_runs_in_two_folders_and_notebooks_of_one_work_side_by_side(project, no_kernel):
    (folder := project / "_build" / "runs" / "mine").mkdir(parents=True)
    with locked(folder):
        assert run(project, run_dir="_build/runs/other") == [True, True]
        for _ in range(2):  # as two kernels do, papermill's or JupyterLab's
            claim_folder(folder, load_profile("small", root=project))


@pytest.mark.parametrize("left", ["killed", "file"])
def test_a_lock_of_a_process_that_ended_is_no_lock(project, no_kernel, left):
    folder = project / "_build" / "runs" / "mine"
    folder.mkdir(parents=True)
    if left == "file":
        (folder / ".lock").write_text("12345")
    else:
        code = "import os; from pathlib import Path; from sing_utils.files import locked\n"
        code += f"with locked(Path({str(folder)!r})): os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
        assert (folder / ".lock").exists()
    assert run(project, run_dir="_build/runs/mine") == [True, True]


# ---------------------------------------------------------------------- a head, and stored features


def write_head(project):
    head = project / "h.safetensors"
    save_file({"weight": torch.ones(2, 6)}, head)
    os.rename(project / "features" / "efficientnet_lite0", project / "features" / "Mine")
    return {"classifiers": {"Mine": f"head:{head}"}}


@pytest.mark.parametrize(
    ("code", "photos", "refused"),
    [
        ("run.classifier('x')", [], True),
        ("for photo in run.profile.photos: run.classifier('x')", ["chelsea"], True),
        ("for photo in run.profile.photos: run.classifier('x')", [], False),
        ("run.head('x')", ["chelsea"], False),
    ],
)
def test_a_head_alone_is_refused_where_a_network_is_needed(project, no_kernel, code, photos, refused):
    write_notebook(project / "notebooks" / "01_two.ipynb", code)
    overrides = write_head(project) | {"photos": photos}
    if refused:
        with pytest.raises(SingError, match="01_two start from pixels, and Mine is a head .* --only 00"):
            run(project, overrides=overrides)
        assert run(project, overrides=overrides, only=["00"]) == [True]
    else:
        assert run(project, overrides=overrides) == [True, True]


def test_stored_features_are_found_under_a_name_of_ones_own(project, no_kernel):
    assert run(project, overrides={"classifiers": {"Lite0": "efficientnet_lite0"}}) == [True, True]
    with pytest.raises(SingError, match="efficientnet_lite1 holds no manifest"):
        run(project, overrides={"classifiers": ["efficientnet_lite1"]})


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("method/head.py", True),
        ("live/pages/pair.js", True),
        ("book/build.py", False),
        ("cli/stores.py", False),
    ],
)
def test_code_in_any_room_counts_but_for_those_that_compute_nothing(tmp_path, file, again):
    root, profile = tmp_path, load_profile("planted")
    path = root / "sing_utils" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")
    before = _inputs_key(root, profile, {})
    path.write_text("2")
    assert (_inputs_key(root, profile, {}) != before) == again
