"""SING: what a vision classifier ignores, and what that means.

>>> from sing_utils import HeadSpaces, Translator, TranslatorFitter
>>> from sing_utils import angle, attribute_score, contrast, image_score
"""

from typing import Any

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
    "steer",
    "step_for_image_score",
    "text_gradient",
]


def __getattr__(name: str) -> Any:
    """`open_run` when it is asked for: it brings the networks' libraries, which the method does not need."""
    if name == "open_run":
        from sing_utils.run import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
