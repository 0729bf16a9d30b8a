"""Structures: the formula of each pair, and formulas as text."""

import pytest
import torch

from pyro_vae import ELBO, SVI, InputError, Spec, build, load, save, terms
from pyro_vae.models.formulas import read
from pyro_vae.models.program import formula

FORMULAS = {
    "p(z) p(x|z); q(z|x)": "vae",
    "p(y) p(z) p(x|z,y); q(y|x) q(z|x,y)": "labelled(classes=3)",
    "p(y) p(z|y) p(x|z); q(y|x) q(z|x,y)": "clusters(classes=3)",
}


@pytest.mark.parametrize(("text", "structure"), FORMULAS.items())
def test_a_formula_makes_the_pair_of_its_structure(text, structure):
    """The same weights from the same seed, and the same bound."""
    found = []
    for written in (structure, f"formula(text={text!r}, classes=3)"):
        torch.manual_seed(0)
        vae = build(Spec((4,), 2, structure=written))
        assert formula(vae.model, vae.guide) == text
        torch.manual_seed(1)
        found.append(terms(vae.model, vae.guide, torch.ones(3, 4)).log_weight)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "text",
    [
        "p(y) p(z) p(x|z,y); q(y|x) q(z|x)",
        "p(y) p(z|y) p(x|z,y); q(y|x) q(z|x,y)",
        "p(y) * p(z|y) * p(x | z) ; q(y|x) q(z|x)",
    ],
)
def test_other_formulas_are_pairs_too(text, tmp_path):
    """What no structure has a name for trains, and is saved and loaded."""
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, structure=text))
    written = text.replace(" *", "").replace(" | ", "|").replace(" ;", ";")
    assert formula(vae.model, vae.guide) == written
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-3), ELBO())
    assert svi.step(torch.ones(3, 4)).isfinite()
    save(vae, tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors")
    assert formula(again.model, again.guide) == written


@pytest.mark.parametrize(
    ("text", "why", "place"),
    [
        ("p(z) p(x|z)", "a semicolon parts p from q", 11),
        ("p(z) p(x|z; q(z|x)", "this is no factor", 5),
        ("p(z) p(x|z); p(z|x)", "factors of q stand after", 13),
        ("p(z) p(x|z,y); q(z|x)", "y has no value here", 11),
        ("p(x|z) p(z); q(z|x)", "z has no value here", 4),
        ("p(w) p(z) p(x|z); q(z|x)", "there is no w", 2),
        ("p(z) p(x|z,c); q(z|x)", "a condition c is given by --condition", 11),
        ("p(z) p(z) p(x|z); q(z|x)", "p has two factors of z", 2),
        ("p(z) p(x|z); q(y|x) q(z|x)", "p has no factor of y, which q draws", 15),
        ("p(y) p(z) p(x|z,y); q(z|x)", "q has no factor of y, which p draws", 26),
        ("p(y) p(z) p(x|z); q(y|x) q(z|x)", "nothing depends on y", 2),
        ("p(z) p(x|z); q(z)", "q of z depends on x", 15),
        ("p(z|x) p(x|z); q(z|x)", "x is what p makes", 4),
        ("p(z) p(x); q(z|x)", "x depends on z", 7),
        ("p(z) ; q(z|x)", "p has no factor of x", 5),
        ("p(y) p(z) p(x|z,y); q(z|x) q(y|x,z)", "comes before z", 33),
        ("p(z) p(x|z); q(z|x) q(x|z)", "x is observed", 22),
        ("", "a semicolon parts p from q", 0),
    ],
)
def test_a_wrong_formula_is_marked_at_its_place(text, why, place):
    with pytest.raises(InputError) as error:
        read(text)
    sentence, written, mark = str(error.value).split("\n")
    assert why in sentence
    assert written == f"  {text}"
    assert mark == f"  {' ' * place}^"
