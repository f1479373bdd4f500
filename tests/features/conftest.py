"""Pictures that tests of extraction and of stores share."""

from __future__ import annotations

import pytest


@pytest.fixture
def photos(tmp_path, make_picture):
    """11 pictures: 3 shards of 4, 4 and 3."""
    for i in range(11):
        make_picture(
            tmp_path / "photos" / ("fit" if i % 3 else "evaluate") / f"c{i % 2}" / f"{i:02d}.png", seed=i
        )
    return tmp_path / "photos"
