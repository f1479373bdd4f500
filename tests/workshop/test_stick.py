"""What a teacher prepares, what a laptop is asked, and a stick that installs without a network."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sing_utils import SingError
from sing_utils.cli import app
from sing_utils.workshop import laptop, notebooks, stick

ROOT = Path(__file__).resolve().parents[2]
LOCK = """\
a==1.0 \\
    --hash=sha256:00
b==2.0 ; sys_platform == 'never' \\
    --hash=sha256:11
c==3.0 \\
    --hash=sha256:22 \\
    --hash=sha256:33
"""


def test_a_folder_in_which_somebody_worked_is_left_alone(tmp_path):
    (tmp_path / "1_head.ipynb").write_text("mine")
    with pytest.raises(SingError, match="holds something already"):
        stick.prepare(ROOT, tmp_path)
    assert (tmp_path / "1_head.ipynb").read_text() == "mine"


def test_the_code_word_hangs_on_versions_and_a_laptop_without_a_bundle_gets_none(tmp_path):
    found = laptop.versions()
    assert set(found) == {"Python", *laptop.PACKAGES}
    assert laptop.code_word(found) != laptop.code_word(found | {"numpy": "1.0"})
    done = CliRunner().invoke(app, ["workshop", "check", str(tmp_path)])
    assert isinstance(done.exception, SingError)
    assert "Code word" not in done.output
    (tmp_path / notebooks.BUNDLE).write_bytes(b"half a fi")
    with pytest.raises(SingError, match="with six notebooks beside it"):
        laptop.require_bundle(tmp_path)
    for i in range(1, 7):
        (tmp_path / f"{i}_x.ipynb").touch()
    with pytest.raises(SingError, match="can't be read"):
        laptop.require_bundle(tmp_path)
    (tmp_path / notebooks.BUNDLE).write_bytes(notebooks.made_bundle(ROOT).read_bytes())
    done = CliRunner().invoke(app, ["workshop", "check", str(tmp_path)])
    assert done.exit_code == 0
    assert f"Code word: {laptop.code_word(found)}" in done.output


def test_the_builds_of_one_version_have_one_code_word(monkeypatch):
    monkeypatch.setattr(laptop.metadata, "version", lambda name: "2.15.0+cpu")
    assert laptop.versions()["torch"] == "2.15.0"


def test_the_bundle_fits_where_it_should():
    assert notebooks.made_bundle(ROOT).stat().st_size < 25e6


def test_what_is_needed_is_followed_through_metadata_and_markers(monkeypatch):
    wants = {
        "us": ["a", "d; extra == 'live'", "x; extra == 'test'"],
        "d": ["c[fast]>=1"],
        "c": ["b"],
        "a": [],
    }
    monkeypatch.setattr(stick.metadata, "requires", wants.__getitem__)
    lock = LOCK + "d==4 \\\n    --hash=sha256:44\nx==5 \\\n    --hash=sha256:55\n"
    found = stick.needed(lock, "us")
    assert list(found) == ["a", "c", "d"]  # b is for another system
    assert "22" in found["c"]
    assert "33" in found["c"]


def test_the_locks_own_needs_jupyterlab_and_no_tool_of_the_book():
    found = stick.needed((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert {"torch", "numpy", "jupyterlab", "ipykernel", "safetensors", "altair"} <= set(found)
    assert not {"ray", "diffusers", "jupyter-book", "pytest", "playwright"} & set(found)


@pytest.mark.parametrize("index", [None, "https://example.org/cpu"])
def test_a_stick_has_all_and_pip_is_asked_for_what_the_lock_says(tmp_path, monkeypatch, index):
    root, asked = tmp_path / "project", []
    for name in ("_build/html/index.html", "README.md", ".venv/bin/python"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "requirements.lock").write_text(LOCK.replace("c==", "torch=="))
    monkeypatch.setattr(stick, "prepare", lambda root, folder: folder.mkdir(parents=True))
    lines = {"a": "a==1.0 \\\n    --hash=sha256:00", "nvidia-x": "nvidia-x==1", "torch": "torch==3.0 \\"}
    monkeypatch.setattr(stick, "needed", lambda lock: lines)

    def pip(*arguments):
        listed = tmp_path / "stick/wheels/requirements.txt"
        asked.append((arguments, listed.read_text()))

    monkeypatch.setattr(stick, "_pip", pip)
    stick.pack(root, tmp_path / "stick", torch_index=index)
    made = {
        p.relative_to(tmp_path / "stick").as_posix() for p in (tmp_path / "stick").rglob("*") if p.is_file()
    }
    assert made == {"book/index.html", "checkout/README.md", "checkout/requirements.lock", "install.py",
                    "START_HERE.txt", "wheels/PYTHON"}  # fmt: skip
    first, listed = asked[0]
    assert "--require-hashes" in first
    assert ("torch" in listed) == ("nvidia" in listed) == (index is None)
    assert len(asked) == (2 if index is None else 3)
    if index:
        assert asked[1][0][-3:] == ("--index-url", index, "torch==3.0")


def test_without_a_book_or_packages_nothing_is_packed(tmp_path):
    with pytest.raises(SingError, match="no built book"):
        stick.pack(tmp_path, tmp_path / "stick")
    assert not (tmp_path / "stick").exists()
    with pytest.raises(SingError, match="could not get the packages"):
        stick._pip("download", "--no-index", "nothing-of-this-name")


def wheel(folder, name, files, more=""):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as made:
        info = f"{name}-1.0.dist-info"
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{more}"
        files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
        for path, text in (files | {f"{info}/RECORD": record}).items():
            made.writestr(path, text)


def test_the_oldest_python_is_one_that_all_packages_take(tmp_path):
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert stick._least_python(tmp_path) == f"{here}.0"
    wheel(tmp_path, "a", {}, "Requires-Python: >=3.8\n")
    wheel(tmp_path, "b", {}, f"Requires-Python: >={here}.5\n")
    assert stick._least_python(tmp_path) == f"{here}.5"


def test_a_stick_installs_in_a_real_process_and_says_what_is_wrong(tmp_path):
    """With a stand-in for the packages, which says where it was asked to check."""
    (tmp_path / "stick/wheels").mkdir(parents=True)
    (tmp_path / "stick/workshop").mkdir()
    (tmp_path / "stick/workshop/1_head.ipynb").write_text("{}")
    script = tmp_path / "stick/install.py"
    script.write_bytes(Path(stick.__file__).with_name("install.py").read_bytes())
    said = "import sys\nprint('checked', *sys.argv[1:])\n"
    wheel(tmp_path / "stick/wheels", "sing_utils", {"sing_utils/__init__.py": "", "sing_utils/cli.py": said})

    def install():
        command = [sys.executable, str(script), str(tmp_path / "home")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for other in (f"2.7.0 {sys.platform}", f"{here}.0 amiga", f"{here}.99 {sys.platform}"):
        (tmp_path / "stick/wheels/PYTHON").write_text(other)
        refused = install()
        assert refused.returncode == 1
        assert f"expected {other.split()[0]} or a later" in refused.stderr
        assert not (tmp_path / "home").exists()
    (tmp_path / "stick/wheels/PYTHON").write_text(
        f"{stick._least_python(tmp_path / 'stick/wheels')} {sys.platform}"
    )
    done = install()
    assert done.returncode == 0, done.stderr
    assert f"checked workshop check {tmp_path / 'home/workshop'}" in done.stdout
    assert "To begin:" in done.stdout
    (tmp_path / "home/workshop/1_head.ipynb").write_text("my work")
    again = install()
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert (tmp_path / "home/workshop/1_head.ipynb").read_text() == "my work"
