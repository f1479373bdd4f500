"""The phrases that come with the book: short, different, and several hundred of them."""

from __future__ import annotations

from sing_utils.runs.profiles import load_profile


def test_several_hundred_different_short_phrases():
    profile = load_profile("embedded")
    assert len(profile.phrases) > 300
    assert len(profile.phrases) == len(profile.concepts) + len(profile.more_concepts)  # no phrase twice
    assert len({p.lower() for p in profile.phrases}) == len(profile.phrases)
    assert all(0 < len(p) <= 40 and p == p.strip() for p in profile.phrases)
