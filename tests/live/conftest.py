"""What the tests of explorers share: one small run, and its explorers."""

from __future__ import annotations

import pytest
from small_run import small_run

from sing_utils.live import moves
from sing_utils.live import widgets as w
from sing_utils.measure import basis


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def photos(run):
    return moves.offered_photos(run)


@pytest.fixture(scope="session")
def made(run):
    """Each explorer as it opens, to look at only."""
    return {
        "pair": w.PairExplorer.of(run),
        "steering": w.SteeringExplorer.of(run),
        "lens": w.ConceptLens.of(run),
        "dial": w.NullSpaceDial.of(run),
        "basis": w.BasisExplorer.of(run, basis.stretches(run)),
    }
