"""A run of the embedded profile at its smallest, with fitted translators: for the explorers' tests."""

from __future__ import annotations

from sing_utils.runs.run import open_run

NAMES = ["efficientnet_lite0", "efficientnet_lite1"]
CLASSES = ["tench", "sports car", "jellyfish"]


def small_run(folder, **overrides):
    """Two classifiers, three classes, a handful of phrases and photos, pictures in two decoder steps."""
    given = {
        "classifiers": NAMES,
        "classes": CLASSES,
        "concepts": ["a desert", "the sea", "shiny metal", "blue", "a person", "a garden"],
        "more_concepts": ["night", "blue", 'quoted "glass", broken'],
        "concept_classes": ["jellyfish"],
        "source_class": "sports car",
        "targets": ["jellyfish", "pirate"],
        "explorer_photos": 2,
        "thumbnails": 4,
        "picture_options": {"steps": 2},
    }
    return open_run("embedded", run_dir=str(folder), **given | overrides)
