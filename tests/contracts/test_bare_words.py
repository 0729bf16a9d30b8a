"""Words without quotes inside members are texts, where the argument takes text."""

import pytest

from pyro_vae import InputError
from pyro_vae.spec import parse, parse_members, parse_schedule


@pytest.mark.parametrize(
    ("axis", "bare", "quoted"),
    [
        ("likelihood", "gaussian(scale=network)", "gaussian(scale='network')"),
        ("network", "mlp(activation=tanh)", "mlp(activation='tanh')"),
        (
            "likelihood",
            "zeroinflated(likelihood=gaussian(scale=element))",
            "zeroinflated(likelihood=gaussian(scale='element'))",
        ),
        (
            "likelihood",
            "columns(columns={age: poisson, income: gaussian(scale=element)})",
            "columns(columns={'age': 'poisson', 'income': \"gaussian(scale='element')\"})",
        ),
        ("guide", "semiamortized(guide=fullrank)", "semiamortized(guide=fullrank())"),
    ],
)
def test_a_word_is_the_text_in_quotes(axis, bare, quoted):
    assert str(parse(axis, bare)) == str(parse(axis, quoted))


def test_words_of_several_members():
    several = parse_members("network", "mlp(activation=tanh), image=mlp")
    assert str(several) == "MLP(activation='tanh'), image=MLP()"


def test_words_in_a_class_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "bare_words_mine.py").write_text(
        "from typing import Any\n"
        "from pyro_vae import MeanField\n"
        "class Mine(MeanField):\n"
        "    def __init__(self, encoder, latent_dim, *, kind='a', size=1, name: str = '', free: Any = None):\n"
        "        super().__init__(encoder, latent_dim)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = "bare_words_mine:Mine"
    assert parse("guide", f"{mine}(kind=b, name=c)").arguments == {
        "kind": "b",
        "name": "c",
    }
    for word in ("size=big", "free=true", "size=(1, two)"):
        with pytest.raises(InputError, match=r"nothing says that \w+ takes one"):
            parse("guide", f"{mine}({word})")
    assert parse("guide", f"{mine}(free='true')").arguments == {"free": "true"}


def test_what_is_no_word_is_refused_as_before():
    for text in (
        "gaussian(scale=a.b)",
        "gaussian(scale=f(x))",
        "gaussian(scale=[x for x in y])",
    ):
        with pytest.raises(InputError, match="plain values"):
            parse("likelihood", text)
    with pytest.raises(InputError, match="floor='low'"):
        parse_schedule("cosine(floor=low)")
