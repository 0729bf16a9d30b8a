"""Where the fields of data are, as the command line says it."""

from typing import NamedTuple

from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.fieldnames import check_names
from pyro_vae.foundation.reading import user_path
from pyro_vae.foundation.source import names

NAMED = names("data/named", "NAMED")


class Source(NamedTuple):
    """Where a field is: a file, a folder or a named data set, and the array in it."""

    dataset: str
    array: str | None


def sources(
    dataset: str, key: str | None, *, fewest: int = 2
) -> dict[str, Source] | None:
    """Where the fields of `--dataset` and `--key` are, by their names; `None` where they name no fields.

    There are `fewest` of them or more.

    >>> sources("pairs.npz", "image,text=captions")["text"]
    Source(dataset='pairs.npz', array='captions')
    >>> sources("image=photos,person=people.csv", None)["image"]
    Source(dataset='photos', array=None)
    """
    one = dataset in NAMED or "=" not in dataset or user_path(dataset).exists()
    if one and (key is None or not ("," in key or "=" in key)):
        return None
    given = f"--key {key}" if one else f"--dataset {dataset}"
    pieces = [p.partition("=") for p in ((key or "") if one else dataset).split(",")]
    names = check_names([left.strip() for left, _, _ in pieces], given, fewest)
    if one:
        arrays = [right.strip() or left.strip() for left, _, right in pieces]
        return {n: Source(dataset, a) for n, a in zip(names, arrays, strict=True)}
    if key is not None:
        raise InputError(
            f"--dataset {dataset} names a file for each field, and --key an array of one: leave --key out"
        )
    for name, sign, right in pieces:
        if not sign or not right.strip():
            raise InputError(
                f"--dataset {dataset} names several fields and no file for {name}: give field=file for each"
            )
    return {n: Source(p[2].strip(), None) for n, p in zip(names, pieces, strict=True)}
