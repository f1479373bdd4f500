from .beyond import BeyondLogits as BeyondLogits
from .errors import NoNullSpaceError as NoNullSpaceError
from .errors import SingError as SingError
from .errors import UnreachableWarning as UnreachableWarning
from .head import Certificate as Certificate
from .head import HeadSpaces as HeadSpaces
from .pictures import restore_norm as restore_norm
from .run import open_run as open_run
from .scores import angle as angle
from .scores import attribute_score as attribute_score
from .scores import contrast as contrast
from .scores import image_score as image_score
from .steering import null_direction as null_direction
from .steering import random_null_direction as random_null_direction
from .steering import steer as steer
from .steering import step_for_image_score as step_for_image_score
from .steering import text_gradient as text_gradient
from .translator import Translator as Translator
from .translator import TranslatorFitter as TranslatorFitter

__version__: str
