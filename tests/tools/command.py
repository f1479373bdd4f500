"""Calling `sing`, in this process or in one of its own: fixtures and checks that several tests share."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sing_utils.cli import main

SING = Path(sys.executable).with_name("sing")


@dataclass(frozen=True)
class Result:
    """What a call left."""

    code: int
    out: str
    err: str


def _enter(arguments, cwd, log):
    """In the child: what the console script does."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["sing", *arguments]
    os.chdir(cwd)
    main()


@pytest.fixture
def sing(tmp_path, monkeypatch, capsys):
    """Call `sing` in this process, which has loaded what it needs."""

    def call(*arguments, cwd=tmp_path):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["sing", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def sing_process(tmp_path):
    """Call `sing` in a process of its own, forked from one that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sing_utils.execute.notebooks", "sing_utils.book.lab"])

    def call(*arguments, cwd=tmp_path):
        log = tmp_path / "log"
        child = context.Process(target=_enter, args=([str(a) for a in arguments], str(cwd), str(log)))
        child.start()
        child.join(120)
        out, err = (Path(f"{log}.{n}").read_text() for n in ("out", "err"))
        return Result(child.exitcode, out, err)

    return call


def assert_refused(result, *words):
    """Exit code 2 and one clear sentence on stderr that holds `words`."""
    assert result.code == 2, result
    shown = [line for line in result.err.splitlines() if line.strip()]
    lines = [line for line in shown if not line.startswith("extract:")]  # the progress bar
    assert len(lines) == 1, result.err
    assert lines[0].startswith("sing: ")
    assert "Traceback" not in result.out
    for word in words:
        assert word in lines[0], lines[0]
