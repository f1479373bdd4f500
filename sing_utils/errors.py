"""The one exception that users are meant to read."""


class SingError(Exception):
    """A mistake the user can mend; the message is one clear sentence."""


class NoNullSpaceError(SingError):
    """The head's rank equals its width: nothing is invisible to the logits."""
