"""The one exception that means "what you gave cannot be used", and the words of others inside its sentence."""


class InputError(ValueError):
    """A mistake in the input, told in one sentence.

    The programs print it and exit with code 2; from code it is an ordinary `ValueError`.
    """


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, for use inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
