from .errors import NoNullSpaceError as NoNullSpaceError
from .errors import SingError as SingError
from .errors import UnreachableWarning as UnreachableWarning
from .method.beyond import BeyondLogits as BeyondLogits
from .method.head import Certificate as Certificate
from .method.head import HeadSpaces as HeadSpaces
from .method.scores import angle as angle
from .method.scores import attribute_score as attribute_score
from .method.scores import contrast as contrast
from .method.scores import image_score as image_score
from .method.steering import null_direction as null_direction
from .method.steering import random_null_direction as random_null_direction
from .method.steering import steer as steer
from .method.steering import step_for_image_score as step_for_image_score
from .method.steering import text_gradient as text_gradient
from .method.translator import Translator as Translator
from .method.translator import TranslatorFitter as TranslatorFitter
from .pictures.base import restore_norm as restore_norm
from .runs.run import open_run as open_run

__version__: str
