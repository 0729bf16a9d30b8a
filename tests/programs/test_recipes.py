"""The recipes of published results: each is read by training, and has a row of its own."""

import tomllib
from pathlib import Path

import pytest

from reading import mentions

RECIPES = Path(__file__).parent.parent.parent / "recipes"
ROWS = tomllib.loads((RECIPES / "published.toml").read_text())
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem != "published")

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def test_each_recipe_has_a_published_result():
    assert sorted(ROWS) == NAMES
    for about in ROWS.values():
        assert about["published"] > 0
        assert about["sure"] in ("seen", "repeated", "memory")
        assert len(set(about["seeds"])) == len(about["seeds"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_training_reads_each_recipe(call, name):
    """With the digits in place of data that not every machine has."""
    config = RECIPES / f"{name}.toml"
    said = call("train", "--config", config, "--dataset", "digits", "--dry-run")
    assert said.code == 0, said.err
    mentions(said.out, "digits", "objective")
