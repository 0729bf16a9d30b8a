"""Structures: the formula of each pair, and formulas as text."""

import pytest
import torch

from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    InputError,
    Spec,
    StandardNormal,
    build,
    load,
    save,
    terms,
)
from pyro_vae.foundation.fieldnames import check_names
from pyro_vae.guides import Ladder
from pyro_vae.models.formulas import read
from pyro_vae.models.program import formula
from pyro_vae.objectives import FreeBits, MeanFieldELBO
from pyro_vae.priors import GaussianLayer

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


LAYERS = {
    "chain": "p(z2) p(z1|z2) p(x|z1); q(z1|x) q(z2|z1)",
    "ladder(dims=(5, 4, 3))": "p(z3) p(z2|z3) p(z1|z2) p(x|z1); q(z3|x) q(z2|x,z3) q(z1|x,z2)",
    "chain(dims=(5, 4, 3), skip=True)": "p(z3) p(z2|z3) p(z1|z3,z2) p(x|z3,z2,z1); "
    "q(z1|x) q(z2|x,z1) q(z3|x,z1,z2)",
    "p(z2) p(z1|z2) p(x|z2,z1); q(z2|x) q(z1|x,z2)": "p(z2) p(z1|z2) p(x|z2,z1); "
    "q(z2|x) q(z1|x,z2)",
}
PARTS = {
    "network": "MLP(hidden=(7,)), z2=MLP(hidden=(6,))",
    "prior": "Laplace(), z1=Conditional(hidden=(3,), components=2)",
    "guide": "FullRank(), z2=Mixture(components=2)",
}


@pytest.mark.parametrize("structure", LAYERS)
def test_pairs_of_layers_are_saved_and_loaded(structure, tmp_path):
    """With a condition, and networks, priors and guides of their own where the structure takes them."""
    torch.manual_seed(0)
    merged = structure.startswith("ladder")
    parts = {"network": PARTS["network"]} if merged else PARTS
    vae = build(Spec((4,), structure=structure, context=2, **parts))
    plain = build(Spec((4,), structure=structure))
    assert formula(plain.model, plain.guide) == LAYERS[structure]
    batch = {"x": torch.ones(3, 4), "c": torch.rand(3, 2)}
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-3), ELBO())
    assert svi.step(batch).isfinite()
    save(vae, tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors")
    torch.manual_seed(1)
    first = terms(vae.model, vae.guide, batch).log_weight
    torch.manual_seed(1)
    assert torch.equal(first, terms(again.model, again.guide, batch).log_weight)
    assert vae.sample(3, batch["c"]).shape == (3, 4)
    assert vae.encode(batch["x"], batch["c"]).sample().shape == (
        3,
        vae.model.latent_dim,
    )


@pytest.mark.parametrize(
    ("text", "why", "place"),
    [
        ("p(z1) p(x|z1); q(z1|x)", "one layer is called z", 2),
        ("p(z2) p(z1) p(x|z1); q(z1|x) q(z2|z1)", "p(z1|z2) is wanted", 8),
        ("p(z2) p(z1|z2) p(x|z2); q(z1|x) q(z2|z1)", "p(x|z1) is wanted", 17),
        ("p(z3) p(z1|z3) p(x|z1); q(z1|x) q(z3|z1)", "there is no z3", 2),
        ("p(z2) p(z1|z2) p(x|z1); q(z1|x)", "q has no factor of z2", 31),
        ("p(z2) p(z1|z2) p(x|z1); q(z1|x) q(z2|x)", "q(z2|z1) is wanted", 34),
        ("p(y) p(z2|y) p(z1|z2) p(x|z1); q(y|x) q(z1|x) q(z2|z1)", "there is no y", 2),
        ("p(z2) p(z1|z2) p(x|z1); q(z1|x,z2) q(z2|x)", "z2 has no value here", 31),
    ],
)
def test_a_wrong_formula_of_layers_is_marked_at_its_place(text, why, place):
    with pytest.raises(InputError) as error:
        read(text)
    sentence, _, mark = str(error.value).split("\n")
    assert why in sentence
    assert mark == f"  {' ' * place}^"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"structure": "ladder", "guide": "fullrank"}, "multiplies Gaussians"),
        ({"structure": "ladder", "guide": "z2=iaf"}, "IAF is asked for"),
        ({"structure": "chain", "guide": "z3=fullrank"}, "the latents are z1, z2"),
        ({"structure": "chain", "guide": "local"}, "the posterior of one layer alone"),
        ({"structure": "chain", "guide": "codebook"}, "layers are reals"),
        ({"structure": "chain", "prior": "z2=flow"}, "stands first, without a name"),
        ({"structure": "chain", "prior": "z1=flow"}, "Flow depends on nothing"),
        ({"structure": "chain", "network": "z3=mlp"}, "layers z2"),
        ({"structure": "chain(dims=(3,))"}, "two layers of latents or more"),
        ({"structure": "vae", "guide": "z2=fullrank"}, "the latents are z"),
        ({"structure": "formula(dims=(3, 2))"}, "the formula has one z"),
    ],
)
def test_parts_that_are_no_layers_are_refused(parts, why):
    with pytest.raises(InputError) as error:
        build(Spec((4,), **parts))
    assert why in str(error.value)


@pytest.mark.parametrize("structure", ["chain", "ladder"])
def test_a_kl_in_closed_form_needs_the_order_of_the_model(structure):
    """Against draws: where the guide comes down as the model does, both are the KL; else it is refused."""
    torch.manual_seed(0)
    vae = build(Spec((4,), structure=f"{structure}(dims=(3, 2))")).double()
    x = torch.rand(2, 4).double().round()
    t = terms(vae.model, vae.guide, x, num_particles=50_000)
    if structure == "chain":
        with pytest.raises(InputError, match="the model draws 'z1' given 'z2'"):
            MeanFieldELBO().check(t)
        return
    MeanFieldELBO().check(t)
    close = MeanFieldELBO().bound(t)
    torch.testing.assert_close(close, ELBO().bound(t), rtol=0, atol=0.05)


def test_free_bits_of_each_layer():
    torch.manual_seed(0)
    vae = build(Spec((4,), structure="chain(dims=(3, 2))"))
    t = terms(vae.model, vae.guide, torch.ones(5, 4), num_particles=4)
    kls = {
        name: (t.sites[name].log_q - t.sites[name].log_p).mean()
        for name in ("z1", "z2")
    }
    free = 0.5 * (kls["z1"] + kls["z2"])
    expected = t.log_px.mean() - sum(kl.clamp_min(free) for kl in kls.values())
    found = FreeBits(nats=free.item(), per="layer").bound(t).mean()
    torch.testing.assert_close(found, expected)
    assert min(kls.values()) < free < max(kls.values())


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("structure", ["chain(skip=True)", "ladder"])
def test_layers_compile_and_follow_their_norms(structure, norm):
    """Compiled steps are the eager ones, running averages among them."""
    found = []
    for asked in (False, True):
        torch.manual_seed(0)
        network = f"mlp(hidden=(8,), norm={norm!r})"
        vae = build(Spec((4,), structure=structure, network=network)).double()
        sgd = torch.optim.SGD(vae.parameters(), 0.01)
        svi = SVI(vae.model, vae.guide, sgd, ELBO(), compile=asked)
        x = torch.rand(20, 4).double().round()
        torch.manual_seed(1)
        losses = torch.stack([svi.step(x).detach() for _ in range(4)])
        found.append((losses, vae.state_dict()))
    torch.testing.assert_close(*found)
    names = [name for name in found[0][1] if "running_mean" in name]
    assert bool(names) == (norm == "batch")
    assert all(found[0][1][name].any() for name in names)


def test_a_ladder_reads_fields_by_their_names():
    fields = "fields(fields={'left': bernoulli(), 'right': bernoulli()}, "
    shapes = "shapes={'left': (3,), 'right': (2,)})"
    vae = build(Spec((5,), structure="ladder", likelihood=fields + shapes))
    says = formula(vae.model, vae.guide)
    assert says.endswith("q(z2|left,right) q(z1|left,right,z2)")
    x = torch.ones(4, 5)
    torch.manual_seed(0)
    whole = vae.guide(x)
    torch.manual_seed(0)
    assert torch.equal(whole, vae.guide({"left": x[:, :3], "right": x[:, 3:]}))


def test_a_field_is_not_called_as_a_layer_is():
    with pytest.raises(InputError, match="z1, which names something else"):
        check_names(("z1", "image"), "the file")


def test_model_and_ladder_have_the_same_skips():
    layers = [GaussianLayer(MLP((2,), (2, 3)), 3)]
    ladder = Ladder([MLP((4,)), MLP((200,))], (3, 2))
    with pytest.raises(InputError, match="must be the same"):
        VAE(
            StandardNormal(2),
            MLP((5,), (1, 4)),
            Bernoulli((4,)),
            ladder,
            layers=layers,
            skip=True,
        )
