"""SING: what a vision classifier ignores, and what that means.

>>> from sing_utils import HeadSpaces, Translator, TranslatorFitter
>>> from sing_utils import angle, attribute_score, contrast, image_score
"""

from sing_utils.errors import NoNullSpaceError, SingError, UnreachableWarning
from sing_utils.head import Certificate, HeadSpaces
from sing_utils.scores import angle, attribute_score, contrast, image_score
from sing_utils.steering import null_direction, steer, step_for_image_score, text_gradient
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
    "steer",
    "step_for_image_score",
    "text_gradient",
]
