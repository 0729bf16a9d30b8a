"""The one exception that means "what you gave cannot be used", and the words of others inside its sentence."""

SHAPES = "\nTrace Shapes:"  # from here on


class InputError(ValueError):
    """A mistake in the input, told in one sentence.

    The programs print it and exit with code 2; from code it is an ordinary `ValueError`. What Pyro writes below the
    errors of programs that it runs, the shapes of their sites, is left out.
    """

    def __init__(self, sentence: object = "", *more: object) -> None:
        super().__init__(str(sentence).partition(SHAPES)[0], *more)


WINDOW = 160  # signs of a text about a place that are shown


class MarkedError(InputError):
    """A mistake at a place of a text: the sentence, and below it the text with a mark under the place.

    Args:
        sentence: what is wrong.
        text: of one line.
        place: of the mistake in it, from 0.
    """

    def __init__(self, sentence: str, text: str, place: int) -> None:
        start = max(0, place - WINDOW // 2)
        shown = text[start : start + WINDOW]
        self.lines = (sentence, f"  {shown}", f"  {' ' * (place - start)}^")
        super().__init__("\n".join(self.lines))


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, for use inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")


class LostError(InputError):
    """Another process of the same program has ended, or does not answer."""
