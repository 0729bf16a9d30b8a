"""The likelihood that data get when none is asked for."""

from pyro_vae.data.representation import Representation
from pyro_vae.data.sets import DataSet


def usual_likelihood(
    data: DataSet, *, bits: bool = False, density: bool = False
) -> tuple[str, str]:
    """The usual likelihood of a data set, in the grammar of `build.parse`, and the reason in words.

    Args:
        data: the data set.
        bits: whether its values are to become bits (`--binarize`).
        density: whether they are to become reals (`--dequantize`, `--scale`).

    >>> from pyro_vae import load_data
    >>> usual_likelihood(load_data("digits"))
    ('Bernoulli()', 'digits is a named set of images, seen as bits')
    """
    holds, kind = data.representation, Representation
    if holds is kind.BINARY:
        return "Bernoulli()", "the data are bits"
    if bits:
        return "Bernoulli()", "--binarize asks for bits"
    if density or holds in (kind.REAL, kind.UNIT):
        scale, scales = "learned", "of one kind, with one scale for all"
        if len(data.shape) == 1:
            scale, scales = "element", "in columns, each with a scale of its own"
        reals = "the values become reals" if density else "the data are reals"
        return f"Gaussian(scale='{scale}')", f"{reals} {scales}"
    if data.named:
        return "Bernoulli()", f"{data.name} is a named set of images, seen as bits"
    if holds is kind.COUNTS:
        return "NegativeBinomial()", "the data are counts"
    levels = int(data.maximum) + 1
    return f"DiscretizedLogistic(levels={levels})", f"the data are {levels} grey levels"
