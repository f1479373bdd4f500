"""SING: what a vision classifier ignores, and what that means.

>>> from sing_utils import BeyondLogits, HeadSpaces, Translator, TranslatorFitter
>>> from sing_utils import angle, attribute_score, contrast, image_score
"""

from importlib import import_module
from typing import Any

from sing_utils.beyond import BeyondLogits
from sing_utils.errors import NoNullSpaceError, SingError, UnreachableWarning
from sing_utils.head import Certificate, HeadSpaces
from sing_utils.scores import angle, attribute_score, contrast, image_score
from sing_utils.steering import (
    null_direction,
    random_null_direction,
    steer,
    step_for_image_score,
    text_gradient,
)
from sing_utils.translator import Translator, TranslatorFitter

__version__ = "0.1.0"
__all__ = [
    "BeyondLogits",
    "Certificate",
    "HeadSpaces",
    "NoNullSpaceError",
    "SingError",
    "Translator",
    "TranslatorFitter",
    "UnreachableWarning",
    "angle",
    "attribute_score",
    "contrast",
    "image_score",
    "null_direction",
    "open_run",
    "random_null_direction",
    "restore_norm",
    "steer",
    "step_for_image_score",
    "text_gradient",
]


_LATER = {"open_run": "sing_utils.run", "restore_norm": "sing_utils.pictures"}


def __getattr__(name: str) -> Any:
    """What is looked up when asked for: it brings the networks' libraries, which the method does not need."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
