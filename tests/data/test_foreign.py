"""Files of kinds that are not read: one sentence, which says what to turn them into."""

from pathlib import Path

import numpy as np
import pytest

from pyro_vae import InputError, load_data
from pyro_vae.data.folders import SUFFIXES
from pyro_vae.data.foreign import PICTURES, WAYS
from pyro_vae.data.own import READERS
from reading import mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


@pytest.mark.parametrize("suffix", sorted(WAYS))
def test_each_kind_says_what_to_do(suffix):
    path = Path(f"a b{suffix.upper() if len(suffix) % 2 else suffix}")
    path.write_bytes(b"\0\1\2 no text")
    with pytest.raises(InputError) as error:
        load_data(str(path))
    sentence = str(error.value)
    what, way = WAYS[suffix]
    mentions(sentence, f"--dataset {path} is {what}, which is not read")
    assert way.partition("FILE")[0] in sentence
    assert "FILE" not in sentence
    assert "\n" not in sentence
    assert len(sentence) < 300


def test_no_kind_that_is_read_is_among_them():
    assert not WAYS.keys() & (READERS.keys() | SUFFIXES)


def test_ways_lead_to_kinds_that_are_read():
    ends = (*READERS, ".png", "numpy.save", "unpack")
    for _, way in WAYS.values():
        assert any(end in way for end in ends), way


@pytest.mark.parametrize("name", ["x.nii.gz", "x.tar.gz", "x.xlsx.zip"])
def test_compressed_ones_too(name):
    Path(name).write_bytes(b"junk")
    with pytest.raises(InputError, match="which is not read"):
        load_data(name)


def test_one_image_and_a_folder_of_unreadable_ones():
    Path("one.png").write_bytes(b"junk")
    with pytest.raises(InputError, match="is one image: name the folder"):
        load_data("one.png")
    Path("photographs").mkdir()
    for i, suffix in enumerate(PICTURES[:2]):
        Path(f"photographs/{i}{suffix}").write_bytes(b"junk")
    with pytest.raises(
        InputError, match=r"holds no images.*save its .avif, .heic files as .png"
    ):
        load_data("photographs")


def test_the_way_of_a_spreadsheet_leads_in():
    """The line in the sentence, but for the reader of the spreadsheet, which is another package."""
    import pandas

    frame = pandas.DataFrame(
        np.random.default_rng(0).normal(size=(50, 3)), columns=list("abc")
    )
    assert "to_csv('data.csv', index=False)" in WAYS[".xlsx"][1]
    frame.to_csv("data.csv", index=False)
    assert load_data("data.csv").shape == (3,)
