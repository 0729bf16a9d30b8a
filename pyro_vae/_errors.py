"""The one exception that means "what you gave cannot be used"."""


class InputError(ValueError):
    """A mistake in the input, told in one sentence.

    The programs print it and exit with code 2; from code it is an ordinary `ValueError`.
    """
