"""SING: what a vision classifier ignores, and what that means.

>>> from sing_utils import BeyondLogits, HeadSpaces, Translator, TranslatorFitter
>>> from sing_utils import angle, attribute_score, contrast, image_score
"""

import lazy_loader

__version__ = "0.1.0"
# The names stand in __init__.pyi. They are looked up when asked for: commands need few of them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
