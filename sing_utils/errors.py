"""The exception and the warning that users are meant to read."""


class SingError(Exception):
    """A mistake the user can mend; the message is one clear sentence."""


class NoNullSpaceError(SingError):
    """The head's rank equals its width: nothing is invisible to the logits."""


class UnreachableWarning(UserWarning):
    """A wanted Image Score that no step along the given direction reaches; those results are NaN."""
