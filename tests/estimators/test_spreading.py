"""Labels spread along nearest neighbours: beside scikit-learn, when it is done, and what comes of it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons
from sklearn.neighbors import kneighbors_graph
from sklearn.semi_supervised import LabelSpreading

from pyro_vae import InputError, Spec, build, fit
from pyro_vae.data.inputs import as_data, beside_condition
from pyro_vae.inference.spreading import ALPHA, NEIGHBOURS, STEPS, spread_labels

SHAPE = (8, 8)


def digits(count, seed=0):
    """Digits, all labels, and those of `count` of each class."""
    digits = load_digits()
    y, random = digits.target, np.random.default_rng(seed)
    x = torch.from_numpy(digits.images / 16 + 0.05 * random.random((len(y), *SHAPE)))
    order = random.permutation(len(y))
    kept = np.concatenate([order[y[order] == k][:count] for k in range(10)])
    known = np.full(len(y), -1)
    known[kept] = y[kept]
    return x.float(), torch.from_numpy(y), torch.from_numpy(known)


def spread(x, known, options="", *, shape=SHAPE, classes=10, seed=0):
    """What is made of labels, or `None`; `y` is then each datum's label, -1 where it has none."""
    torch.manual_seed(seed)
    structure = f"labelled(classes={classes}{options})"
    vae = build(Spec(shape, 2, likelihood="gaussian", structure=structure))
    data = beside_condition(vae.model, {"x": x, "y": known}, None)
    data = as_data(vae.model, data)
    vae.start(data)
    found = spread_labels(vae, data)
    if found is None:
        return None
    c = found.data.fields["c"]
    y = c.nan_to_num().argmax(1).where(~c[:, 0].isnan(), -1)
    return found, y


def test_labels_are_those_of_another_library():
    """Of columns, in their standard deviations, as q(y|x) sees them."""
    x, y = (torch.from_numpy(a) for a in make_moons(500, noise=0.3, random_state=0))
    known = y.where(torch.arange(500) < 20, -1)

    def graph(rows, _=None):
        nearest = kneighbors_graph(rows, NEIGHBOURS)
        return nearest.maximum(nearest.T)

    theirs = LabelSpreading(kernel=graph, alpha=ALPHA, max_iter=STEPS, tol=0)
    with pytest.warns(Warning, match="max_iter"):
        theirs.fit(x / x.std(0), known.numpy())
    _, found = spread(x.float(), known, ", spread=True", shape=(2,), classes=2)
    assert (found.numpy() == theirs.transduction_).mean() > 0.995


def test_the_same_data_give_the_same_labels_whatever_was_drawn_before():
    x, _, known = digits(8)
    first, second = (spread(x, known, seed=seed) for seed in (0, 1))
    assert torch.equal(first[1], second[1])
    assert first[0].sentence == second[0].sentence


def test_when_labels_are_spread():
    x, y, few = digits(17)  # of 180 data of each class
    assert spread(x, few) is not None
    _, _, many = digits(19)
    assert spread(x, many) is None  # more than one in ten
    assert spread(x, many, ", spread=True") is not None
    assert spread(x, few, ", spread=False") is None
    assert spread(x, few, ", weight=0") is None
    assert spread(x, torch.full_like(y, -1), ", spread=True") is None
    assert spread(x, y, ", spread=True") is None  # nothing is left to be given


def test_labels_that_neighbours_do_not_tell_are_left_alone():
    x, _, known = digits(8)
    among = known >= 0
    torch.manual_seed(0)
    known[among] = known[among][torch.randperm(int(among.sum()))]
    assert spread(x, known) is None
    found, _ = spread(x, known, ", spread=True")
    share = int(found.sentence.split("known ")[1].split("%")[0])
    assert share < 30


def test_what_no_label_reaches_stays_without_one():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(50, 3) * 0.1 + 5 * k for k in range(3)])
    known = torch.full((150,), -1)
    known[0], known[50] = 0, 1
    _, y = spread(x, known, ", spread=True", shape=(3,), classes=2)
    assert y.tolist() == [0] * 50 + [1] * 50 + [-1] * 50


def test_missing_values_and_other_conditions():
    x, y, known = digits(8)
    x = x.masked_fill(torch.rand(x.shape) < 0.1, torch.nan)
    structure = "labelled(classes=10)"
    spec = Spec(
        SHAPE, 2, likelihood="gaussian", structure=structure, missing=True, context=11
    )
    vae = build(spec)
    c = torch.eye(10)[known.clamp_min(0)].masked_fill(known[:, None] < 0, torch.nan)
    beside = torch.randn(len(x), 1)
    data = as_data(vae.model, {"x": x, "c": torch.cat([c, beside], 1)})
    vae.start(data)
    found = spread_labels(vae, data).data.fields["c"]
    assert torch.equal(found[:, 10:], beside)
    assert (found[:, :10].argmax(1) == y).float().mean() > 0.7


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.watch.TrainingWarning")
def test_a_classifier_of_few_labels_is_better_for_it():
    """Two moons, of which three data each have a label."""
    x, y = (torch.from_numpy(a) for a in make_moons(1000, noise=0.05, random_state=0))
    known = torch.full_like(y, -1)
    for k in range(2):
        some = (y == k).nonzero().flatten()[:3]
        known[some] = k
    right = {}
    for options in ("", ", spread=False"):
        torch.manual_seed(0)
        structure = f"labelled(classes=2{options})"
        vae = build(Spec((2,), 1, likelihood="gaussian", structure=structure))
        data = {"x": x.float(), "y": known}
        fit(vae, data, epochs=20, learning_rate=3e-3)
        right[options] = float((vae.predict(x.float()).argmax(1) == y).float().mean())
    assert right[""] > 0.99
    assert right[", spread=False"] < 0.95


def test_a_formula_spreads_as_the_structure_that_it_is():
    text = "p(y) p(z) p(x|z,y); q(y|x) q(z|x,y)"
    formula = f"formula(text={text!r}, classes=10)"
    pairs = [build(Spec(SHAPE, 2, structure=s)) for s in ("labelled()", formula)]
    assert [vae.spread for vae in pairs] == [None, None]
    clusters = build(Spec(SHAPE, 2, structure="clusters()"))
    assert clusters.spread is False


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "labelled(target='real', spread=True)"},
        {
            "structure": "labelled(spread=True)",
            "network": "linear",
            "likelihood": "gaussian",
            "guide": "exact",
        },
    ],
)
def test_what_cannot_be_spread_is_refused(options):
    with pytest.raises(InputError, match="spread"):
        build(Spec(SHAPE, 2, **options))
