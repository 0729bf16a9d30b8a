"""Data that all have a label: their class is observed, and says what it says where it is enumerated."""

import math

import pytest
import torch

from pyro_vae import ELBO, IWAE, SVI, InputError, Spec, build, fit
from pyro_vae.inference.seeking import all_labelled
from pyro_vae.objectives import (
    Annealed,
    Capacity,
    InfoVAE,
    MeanFieldELBO,
    ReweightedWakeSleep,
)

OF_EXACT = {
    "labelled": "labelled(classes=3, weight=7)",
    "clusters": "clusters(classes=3, weight=7)",
    "both": "formula(text='p(y) p(z|y) p(x|z,y); q(y|x) q(z|x,y)', classes=3, weight=7)",
    "mixture": "formula(text='p(y) p(x|y); q(y|x)', classes=3, weight=7)",
}


def all_labelled_pair(structure, guide="meanfield"):
    torch.manual_seed(0)
    given = {"network": "linear", "likelihood": "gaussian", "guide": guide}
    vae = build(Spec((4,), 2, structure=structure, context=3, **given)).double()
    with torch.no_grad():
        for p in vae.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    x = torch.randn(12, 4).double()
    return vae, {"x": x, "c": torch.eye(3).double()[torch.arange(12) % 3]}


def gradients(vae, data, *, known, make=ELBO, count=1):
    """The mean loss, its error, and the mean gradient of each parameter."""
    objective = make()
    objective.prepare(len(data["x"]), 10)
    objective.advance(2)
    svi = SVI(vae.model, vae.guide, torch.optim.SGD, objective)
    vae.zero_grad()
    with svi.labelled(known):
        losses = torch.stack([svi.differentiate(data)[0] for _ in range(count)])
    found = {n: p.grad / count for n, p in vae.named_parameters() if p.grad is not None}
    return losses.mean(), losses.std(correction=0) / count**0.5, found


@pytest.mark.parametrize("structure", OF_EXACT.values(), ids=OF_EXACT)
def test_an_observed_class_is_the_enumerated_one(structure):
    """Under the exact posterior, whose draws make no noise."""
    vae, data = all_labelled_pair(structure, guide="exact")
    summed, _, of_sum = gradients(vae, data, known=False)
    observed, _, found = gradients(vae, data, known=True)
    torch.testing.assert_close(observed, summed, rtol=1e-10, atol=1e-10)
    assert found.keys() == of_sum.keys()
    for name, gradient in of_sum.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-8)


OBJECTIVES = {
    "elbo": ELBO,
    "three particles": lambda: ELBO(num_particles=3),
    "beta": lambda: ELBO(beta=3.0),
    "warm-up": lambda: Annealed(epochs=4),
    "capacity": Capacity,
    "iwae": lambda: IWAE(num_particles=3),
    "closed form": MeanFieldELBO,
    "wake-sleep": ReweightedWakeSleep,
}


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_is_what_it_is_where_classes_are_enumerated(make):
    """Under a narrow guide, whose draws make little noise."""
    found = []
    for known in (False, True):
        vae, data = all_labelled_pair(OF_EXACT["labelled"])
        with torch.no_grad():
            vae.guide.head.weight[2:] = 0.0
            vae.guide.head.bias[2:] = -6.0
        found.append(gradients(vae, data, known=known, make=make, count=100))
    (summed, error, of_sum), (observed, own, of_observed) = found
    assert (observed - summed).abs() < 4.5 * (error**2 + own**2).sqrt()
    for name, gradient in of_sum.items():
        if "classifier" in name:  # of log q(y|x) alone, which is not drawn
            torch.testing.assert_close(of_observed[name], gradient)


def test_what_an_objective_refuses_does_not_depend_on_labels():
    vae, data = all_labelled_pair(OF_EXACT["labelled"])
    with pytest.raises(InputError, match="all values of site 'y' are enumerated"):
        fit(vae, data, InfoVAE(), epochs=1)


def test_a_class_is_observed_where_all_have_a_label_and_it_alone_is_listed():
    vae, data = all_labelled_pair(OF_EXACT["labelled"])
    svi = SVI(vae.model, vae.guide, torch.optim.SGD, ELBO())
    assert all_labelled(svi, data)
    data["c"][3] = math.nan
    assert not all_labelled(svi, data)
    codes = {"prior": "categorical(levels=2)", "guide": "categorical(levels=2)"}
    other = build(Spec((4,), 2, structure="labelled(classes=3)", context=3, **codes))
    data["c"][3] = torch.eye(3)[0]
    svi = SVI(other.model, other.guide, torch.optim.SGD, ELBO())
    assert not all_labelled(svi, data)
    plain = build(Spec((4,), 2))
    assert not all_labelled(
        SVI(plain.model, plain.guide, torch.optim.SGD, ELBO()), data
    )


def test_compiled_steps_know_whether_all_have_a_label():
    vae, data = all_labelled_pair(OF_EXACT["labelled"], guide="exact")
    some = {**data, "c": data["c"].clone()}
    some["c"][:5] = math.nan
    found = []
    for compiled in (False, True):
        svi = SVI(vae.model, vae.guide, torch.optim.SGD, ELBO(), compile=compiled)
        for given, known in ((data, True), (some, False)):
            with svi.labelled(known):
                found.append(float(svi.differentiate(given)[0]))
    assert found[:2] == pytest.approx(found[2:])
