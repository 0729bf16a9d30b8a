"""A table of attributes beside data: its rows by order or by name, as people write such files."""

from types import SimpleNamespace

import numpy as np
import pytest

from pyro_vae import InputError
from pyro_vae.data.attributes import attributes_of

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

ROWS = {"train": np.array([3, 0]), "test": np.array([2, 1])}
NAMES = {
    "train": np.array(["a/3.png", "a/0.png"]),
    "test": np.array(["2.png", "1.png"]),
}
# By the place in the file of the data, whichever way it is written.
HAT, AGE, HAIR = [1, -1, -1, 1], [30.5, 4.0, 61.25, 18.0], ["red", "no", "red", ""]


def data(names=None, rows=None):
    return SimpleNamespace(names=names, rows=rows or ROWS)


def found(text, *, names=None):
    with open("attributes.txt", "w", encoding="utf-8") as file:
        file.write(text)
    return attributes_of(data(names), "attributes.txt")


def lines(sign, order, first=None):
    for i in order:
        cells = [str(HAT[i]), str(AGE[i]), HAIR[i] or "-"]
        yield sign.join(cells if first is None else [first.format(i), *cells])


@pytest.mark.parametrize("sign", [",", ";", "\t", " "])
def test_rows_stand_as_the_data_do(sign):
    columns = found(
        "\n".join([sign.join(["hat", "age", "hair"]), *lines(sign, range(4))])
    )
    for name, truth in (("hat", HAT), ("age", AGE), ("hair", HAIR)):
        for split, rows in ROWS.items():
            assert columns[name][split].tolist() == [truth[i] or "-" for i in rows]
    assert columns["hat"]["train"].dtype.kind == "i"
    assert columns["age"]["train"].dtype.kind == "f"


@pytest.mark.parametrize(
    ("head", "sign"),
    [
        ("image_id,hat,age,hair", ","),
        ("4\nhat age hair", " "),  # as the marks of CelebA are written
        ("4\nfile;hat;age;hair", ";"),
    ],
)
def test_rows_are_found_by_name(head, sign):
    table = [head, *lines(sign, (2, 0, 1, 3), "{}.png")]
    columns = found("\n".join(table), names=NAMES)
    assert columns["hat"]["train"].tolist() == [HAT[3], HAT[0]]
    assert columns["age"]["test"].tolist() == [AGE[2], AGE[1]]
    assert columns["hair"]["train"].tolist() == [HAIR[3] or "-", HAIR[0]]


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("hat,age\n1,2\n1,2\n1,2\n", None, "has 3 rows of attributes, and there are 4"),
        ("hat,age\n1,2\n1\n", None, "row 2 of .* has 1 cells below 2 columns"),
        ("hat,age\n1\n1,2\n", None, "row 1 of .* has 1 cells below 2 columns"),
        ("hat,hat\n1,2\n", None, "names the column 'hat' twice"),
        ("hat,age\n", None, "no row of attributes"),
        ("file,hat\n1.png,2\n", None, "the data have none"),
        ("file,hat\n1.png,2\n2.png,2\n3.png,2\n", NAMES, "no row for 'a/0.png'"),
    ],
)
def test_what_does_not_fit_is_named(text, names, said):
    with pytest.raises(InputError, match=said) as error:
        found(text, names=names)
    assert len(str(error.value).splitlines()) == 1


def test_parts_that_are_counted_apart_need_names():
    parts = {"train": np.arange(3), "test": np.arange(2)}
    with open("attributes.txt", "w", encoding="utf-8") as file:
        file.write("hat\n1\n1\n1\n")
    with pytest.raises(InputError, match="come in parts"):
        attributes_of(data(rows=parts), "attributes.txt")
