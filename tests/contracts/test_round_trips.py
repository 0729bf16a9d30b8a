"""Every member in a pair that is written, read back, and says what it is."""

from xml.etree import ElementTree

import pytest
import torch

from example import SHAPE, SHORTER, beside, example
from pyro_vae import Spec, build, load, log_marginal, terms, variants
from pyro_vae.models.parts import members_of
from pyro_vae.spec import AXES, parse

# Members that are about something which a single tensor is not, or that are written with arguments.
WRITTEN = {
    "Columns": "Columns(columns={'a': Gaussian(), 'b': Poisson()})",
    "Fields": "Fields(fields={'a': Gaussian(), 'b': Poisson()}, shapes={'a': (2,), 'b': (3,)})",
    "Formula": "p(z) p(x|z); q(z|x)",
    "Chain": "Chain(dims=(2, 1))",
    "Ladder": "Ladder(dims=(2, 1))",
}
SHAPES = {"Columns": (2,), "Fields": (5,)}
CONTEXT = {"Conditional": 2}
PARTS = [
    (axis, name)
    for axis in ("structure", "prior", "guide", "likelihood", "network")
    for name in variants(AXES[axis][0])
]


def pair(axis, name):
    written = {**SHORTER, **WRITTEN}.get(name, name)
    more = {axis: written, "context": CONTEXT.get(name, 0), **beside(axis, name)}
    return build(Spec(SHAPES.get(name, SHAPE), 3, **more)).eval()


def densities(vae, x):
    """log p(x) of each datum, or where the guide is a point log p(x|z)."""
    if not vae.guide.has_density:
        return terms(vae, x).log_px
    return log_marginal(vae, x, num_particles=7, seed=3).values


@pytest.mark.parametrize(("axis", "name"), PARTS, ids=[name for _, name in PARTS])
def test_a_pair_with_each_member_is_read_back_to_the_bit(axis, name, tmp_path):
    torch.manual_seed(0)
    vae = pair(axis, name)
    likelihood = vae.model.likelihood
    x = example(likelihood.support, 4, *likelihood.shape).float()
    x = {"x": x, "c": torch.randn(4, vae.context)} if name in CONTEXT else x
    vae.save(tmp_path / "pair")
    again = load(tmp_path / "pair")
    of_both = [densities(v, x) for v in (vae, again)]
    assert of_both[0].isfinite().all()
    assert torch.equal(*of_both)
    assert repr(again) == repr(vae)


@pytest.mark.parametrize(("axis", "name"), PARTS, ids=[name for _, name in PARTS])
def test_the_members_of_a_pair_are_said_as_they_are_typed(axis, name):
    vae = pair(axis, name)
    said = members_of(vae)
    typed = {"encoder": "network", "decoder": "network"}
    for part, text in said.items():
        kind = typed.get(part, part)
        if kind in AXES and " of " not in text:
            assert str(parse(kind, text)) == text
    if axis in said:
        assert name in said[axis]
    assert ElementTree.fromstring(vae._repr_html_()).tag == "div"
    assert all(text in repr(vae) for text in said.values())
