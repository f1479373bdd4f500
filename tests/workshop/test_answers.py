"""Checks tell right from wrong, by one table: each row of it, and no probe that no row triggers."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sing_utils.workshop import check, notebooks

ROOT = Path(__file__).resolve().parents[2]
TABLE = notebooks.answers(ROOT)
SOLVED = {}
for _path in notebooks.sources(ROOT):
    SOLVED |= notebooks.solved_functions(notebooks.read(_path))
KINDS = {
    kind: [pytest.param(f, row, id=f"{f}: {row['wrote']}") for f, rows in TABLE.items() for row in rows[kind]]
    for kind in ("right", "wrong")
}
SOURCE = Path(check.__file__).read_text(encoding="utf-8")


def asked(name, code):
    """What a check is given by a participant: the function, and the check's answer."""
    known = {"torch": torch, "np": np, "angle": check.angle()}
    exec(code, known)
    return known[name], getattr(check, name)(known[name])


def test_every_function_of_the_sessions_has_a_check_and_rows():
    assert list(SOLVED) == list(TABLE)
    assert sorted(SOLVED) == check.__all__


@pytest.mark.parametrize("name", SOLVED)
def test_the_books_own_solution_is_right_and_so_is_the_net(name, capsys):
    theirs, back = asked(name, SOLVED[name])
    assert back is theirs
    net = getattr(check, name)()
    getattr(check, name)(lambda *given: net(*given))
    assert capsys.readouterr().out == f"✓ {name}: right.\n" * 2


@pytest.mark.parametrize(("name", "row"), KINDS["right"])
def test_other_right_answers_pass_and_come_back_as_tensors(name, row, capsys):
    _, back = asked(name, row["code"])
    assert capsys.readouterr().out == f"✓ {name}: right.\n"
    if name == "null_basis":
        V = back(torch.tensor([[1.0, 0, 1], [0, 1, 1]], dtype=torch.float64))
        assert isinstance(V, torch.Tensor)
        assert V.dtype == torch.float64
        assert torch.allclose(V[:, 0].abs(), torch.full((3,), 3**-0.5, dtype=V.dtype), atol=1e-6)


def lines_of(code):
    return {x for line in code.splitlines() if len(x := line.strip()) > 8 and not x.startswith(("def ", '"'))}


@pytest.mark.parametrize(("name", "row"), KINDS["wrong"])
def test_wrong_answers_get_their_own_words_and_the_books_function(name, row, capsys):
    _, back = asked(name, row["code"])
    said = capsys.readouterr().out
    assert said.startswith(f"✗ {name}: ")
    assert row["says"] in said
    assert said.count("\n") == 1
    assert not [line for line in lines_of(SOLVED[name]) if line.split("  #")[0] in said]
    assert back is getattr(check, name)()


def test_no_probe_that_no_wrong_answer_triggers(monkeypatch):
    fired = set()

    def seen(self, *given):
        frame = sys._getframe(1)
        while frame:
            fired.update([frame.f_lineno] if frame.f_code.co_filename == check.__file__ else [])
            frame = frame.f_back
        Exception.__init__(self, *given)

    monkeypatch.setattr(check.Wrong, "__init__", seen)
    for name, rows in TABLE.items():
        for row in rows["wrong"]:
            asked(name, row["code"])
    calls = [n for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.Call)]
    probes = [n for n in calls if getattr(n.func, "id", "") in ("need", "_shape")]
    assert len(probes) > 60
    dead = [ast.get_source_segment(SOURCE, n) for n in probes
            if not fired & set(range(n.lineno, n.end_lineno + 1))]  # fmt: skip
    assert dead == []


def test_what_is_not_written_or_raises_is_said_in_one_line(capsys):
    def angle(x, y):
        raise NotImplementedError

    def ridge(F, Z, lam):
        return torch.eye(3) @ F

    state = torch.get_rng_state()
    assert check.angle(angle) is check.angle()
    assert check.ridge(ridge) is check.ridge()
    assert torch.equal(torch.get_rng_state(), state)  # a participant's own draws stay theirs
    check.angle(check.angle(angle))  # the check's cell once more, without one's own
    empty, stopped, _, again = capsys.readouterr().out.splitlines()
    assert again.startswith("○ angle: this is the book's function, not yours.")
    assert empty.startswith("○ angle: not written yet.")
    assert stopped.startswith("✗ ridge: it stops with RuntimeError (")


def test_a_function_that_was_right_is_not_examined_again(capsys):
    """Whatever it is given later, such as a feature that can't be steered that far."""

    def image_score(z, z_tilde):
        return check.angle()(z, z_tilde).numpy()

    back = check.image_score(image_score)
    assert capsys.readouterr().out == "✓ image_score: right.\n"
    back_of_nan = check.energy_share(lambda f, V: ((f @ V).square().sum(1) / f.square().sum(1)).numpy())
    assert back_of_nan(torch.zeros(1, 3).double(), torch.eye(3).double()).isnan().all()
    assert back(torch.eye(2).double(), torch.eye(2).double().flip(0)).tolist() == [90.0, 90.0]
