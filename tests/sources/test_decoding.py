"""Pictures as a person would see them, or the reason why not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image
from zoo import CORNERS, Animal, corners_of, png, quarters, saved, zoo

from sing_utils import SingError
from sing_utils.sources.decoding import MAX_PIXELS, UnreadableError, read_picture

ANIMALS = zoo()


def same(got, wanted, tolerance):
    return np.abs(np.subtract(got, wanted)).max() <= tolerance


@pytest.mark.parametrize("animal", ANIMALS, ids=[a.name for a in ANIMALS])
def test_the_zoo(animal: Animal, tmp_path):
    (tmp_path / animal.name).write_bytes(animal.data)
    if animal.reason:
        with pytest.raises(UnreadableError, match=animal.reason) as caught:
            read_picture(tmp_path / animal.name)
        assert str(tmp_path) not in str(caught.value)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_picture(tmp_path / animal.name)
    assert (image.mode, image.size) == ("RGB", animal.size)
    assert same(corners_of(image), animal.corners, animal.tolerance), corners_of(image)
    assert np.array_equal(np.asarray(read_picture(animal.data)), np.asarray(image))  # bytes as well


@pytest.mark.parametrize(
    ("data", "mend"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC: convert"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0heic", "HEIC: convert"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL: convert"),
        (b"<!DOCTYPE html><html>", "fetch the picture again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_what_is_another_kind_of_file_is_told_and_mended(data, mend):
    with pytest.raises(UnreadableError, match=mend):
        read_picture(data)


def test_the_zoo_has_every_orientation_and_four_different_corners():
    assert len([a for a in ANIMALS if a.name.startswith("exif-")]) == 32
    assert len(set(ANIMALS[0].corners)) == 4


def test_sixteen_bits_are_scaled_not_cut_off():
    data = saved(np.array([[0, 257 * 100, 65535]], np.uint16), "png")
    np.testing.assert_array_equal(np.asarray(read_picture(data))[0, :, 0], [0, 100, 255])


def test_floats_that_are_no_numbers_are_black_and_infinite_ones_an_end():
    data = saved(np.array([[0, 1, np.nan, np.inf, -np.inf]], np.float32), "tiff")
    np.testing.assert_array_equal(np.asarray(read_picture(data))[0, :, 0], [0, 255, 0, 255, 0])


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ((0, 1, 255, 65535), (0, 0, 1, 255)),  # of 65535, however dark
        ((0, 65536, 131072, 196608), (0, 85, 170, 255)),  # beyond: between its own extremes
        ((-100, 0, 0, 100), (0, 128, 128, 255)),
        ((7, 7, 7, 7), (0, 0, 0, 0)),
        ((-7, -7, -7, -7), (0, 0, 0, 0)),  # no extremes to go between
    ],
)
def test_integers_of_32_bits(values, seen):
    got = corners_of(read_picture(saved(quarters(values, dtype=np.int32), "tiff")))
    assert tuple(g[0] for g in got) == seen


def test_colour_profiles_are_left_alone():
    plain = read_picture(saved(quarters(), "png"))
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    with_profile = read_picture(saved(quarters(), "png", icc_profile=profile))
    assert plain.tobytes() == with_profile.tobytes()


@pytest.mark.parametrize("pillows", [Image.MAX_IMAGE_PIXELS, None])
def test_the_limit_is_on_pixels_and_says_so(pillows, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
    side = int(MAX_PIXELS**0.5) + 2
    with pytest.raises(UnreadableError, match=rf"{side**2} pixels .* at most {MAX_PIXELS}.*scale it down"):
        read_picture(png(side, side, 1, 0, b""))


def test_metadata_that_no_one_can_read_does_not_lose_the_picture(monkeypatch):
    def broken(_):
        raise IndexError

    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert corners_of(read_picture(saved(quarters(), "png"))) == CORNERS


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(SingError, match="the file can't be read: "):
            read_picture(path)


def test_memory_is_the_machines_trouble_not_the_pictures(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(MemoryError):
        read_picture(saved(quarters(), "png"))
