"""What a store survives, tried a few times; `make torture` tries it hundreds of times."""

from __future__ import annotations

import pytest
import torture


@pytest.fixture
def photos(tmp_path):
    return torture.make_pictures(tmp_path / "photos")


def test_kills(photos, tmp_path):
    torture.kills(photos, tmp_path, 12)


def test_damage(photos, tmp_path):
    torture.damage(photos, tmp_path, 12)


def test_a_full_disk(photos, tmp_path):
    torture.full_disk(photos, tmp_path, [16_384, 98_304, 212_992])


def test_three_writers(photos, tmp_path):
    torture.writers(photos, tmp_path, 2)


def test_the_picture_zoo(tmp_path):
    torture.picture_zoo(tmp_path)


def test_the_page_names_no_machine():
    import platform

    text = torture.page([torture.Result("what", "3 times", "well", 1.2)])
    assert "| what | 3 times | well | 1 |" in text
    assert platform.node() not in text
