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


@pytest.fixture
def fresh(run, made):
    """New explorers with the numbers of those that are made."""

    def make(name):
        old = made[name]
        own = {k: getattr(old, k) for k in ("photo", "target", "class_name") if old.has_trait(k)}
        new = type(old)(run, data=old.data, **own)
        if name == "lens":
            new._thumbnails = old._thumbnails
        return new

    return make
