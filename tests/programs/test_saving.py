"""Runs and VAEs in Python: read back from a folder or a file, and written."""

import pickle
from pathlib import Path

import pytest
import torch

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    FullRank,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    load,
    open_run,
    save,
)
from pyro_vae.models.classes import Classes
from pyro_vae.models.conditionals import (
    Exact,
    ExactLayers,
    Ladder,
    Layered,
    Local,
    SemiAmortized,
)
from pyro_vae.models.finite import NoVector, OfClass
from pyro_vae.models.layers import GaussianLayer
from pyro_vae.models.likelihoods import Poisson, ZeroInflated
from pyro_vae.models.priors import GaussianMixture
from pyro_vae.models.program import formula
from pyro_vae.networks import Linear
from reading import mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def by_hand(likelihood=None, guide=MeanField, prior=None, **network):
    encoder = dict(network)
    if "hidden" in network:
        encoder["hidden"] = network["hidden"][::-1]
    likelihood = likelihood or Bernoulli((4,))
    decoder = MLP((2,), (likelihood.channels, 4), **network)
    return VAE(
        prior or StandardNormal(2), decoder, likelihood, guide(MLP((4,), **encoder), 2)
    )


MADE = {
    "plain": by_hand,
    "arguments": lambda: by_hand(
        Gaussian((4,), scale="network"),
        FullRank,
        GaussianMixture(2, components=3),
        hidden=(16, 8),
        activation="tanh",
    ),
    "a number": lambda: by_hand(Gaussian((4,), scale=0.25)),
    "a member as an argument": lambda: by_hand(
        ZeroInflated((4,), likelihood=Poisson),
        lambda e, d: SemiAmortized(e, d, guide=FullRank),
    ),
    "built": lambda: build(
        Spec((4,), 3, prior="vampprior", network="gatedmlp(hidden=(5,))")
    ),
    "float64": lambda: by_hand().double(),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_saved_is_loaded(name):
    vae = MADE[name]()
    seed = torch.get_rng_state()
    save(vae, "mine.safetensors")
    assert torch.equal(torch.get_rng_state(), seed)
    again = load("mine.safetensors")
    weights = vae.state_dict()
    assert weights.keys() == again.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in again.state_dict().items())
    assert repr(again) == repr(vae)
    assert repr(again.model) == repr(vae.model)
    assert repr(again.guide) == repr(vae.guide)
    z = torch.zeros(1, vae.model.prior.latent_dim, dtype=next(vae.parameters()).dtype)
    assert torch.equal(vae.eval().decode(z).mean, again.decode(z).mean)


def in_layers(guide, network=MLP):
    own = GaussianLayer(network((1,), (1, 2)), 2, scale="element")
    decoder, likelihood = network((2,), (1, 4)), Gaussian((4,))
    return VAE(StandardNormal(1), decoder, likelihood, guide, layers=[own])


def mixture():
    classes = Classes(3, Linear((4,)), of=("x",))
    decoder = OfClass(Linear((3,), (1, 4)), 3)
    guide = Exact(Linear((4,)), 0)
    return VAE(NoVector(), decoder, Gaussian((4,)), guide, classes=classes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VAE(
            StandardNormal(2), Linear((2,), (1, 4)), Gaussian((4,)), Exact(MLP((4,)), 2)
        ),
        lambda: by_hand(guide=Local),
        lambda: in_layers(ExactLayers((2, 1)), Linear),
        lambda: in_layers(Layered([MeanField(MLP((4,)), 2), MeanField(MLP((2,)), 1)])),
        lambda: in_layers(Ladder([MLP((4,)), MLP((200,))], (2, 1))),
        mixture,
    ],
    ids=["exact", "local", "exact layers", "chain", "ladder", "mixture"],
)
def test_pairs_whose_guide_is_no_network_and_a_prior_are_loaded(make):
    vae = make()
    save(vae, "mine.safetensors")
    again = load("mine.safetensors")
    assert type(again.guide) is type(vae.guide)
    assert formula(again.model, again.guide) == formula(vae.model, vae.guide)
    weights = again.state_dict()
    assert weights.keys() == vae.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in vae.state_dict().items())


@pytest.mark.parametrize("ending", ["pt", "pth", "pkl", "ckpt", "onnx", "bin"])
def test_other_kinds_of_files_are_not_saved(ending):
    with pytest.raises(
        InputError, match=rf"mine\.{ending} must end in \.safetensors, or"
    ):
        save(by_hand(), f"mine.{ending}")
    assert not Path(f"mine.{ending}").exists()


@pytest.mark.parametrize("open_it", [load, open_run])
def test_a_file_that_is_no_run_is_called_one(open_it):
    Path("plain.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        InputError, match=r"plain\.csv is a file, and a run is a folder"
    ):
        open_it("plain.csv")


def test_a_vae_is_saved_to_a_folder_and_pickled():
    save(by_hand(), "folder")
    assert isinstance(load("folder"), VAE)
    with pytest.raises(InputError, match="there already"):
        save(by_hand(), "folder")
    with pytest.raises(InputError, match="folder none does not exist"):
        save(by_hand(), "none/mine.safetensors")
    with pytest.raises(InputError, match=r"no config\.toml"):
        open_run("folder")
    save(pickle.loads(pickle.dumps(by_hand())), "mine.safetensors")


def test_what_no_spec_describes():
    foreign = VAE(
        StandardNormal(2),
        torch.nn.Linear(2, 4),
        Bernoulli((4,)),
        MeanField(MLP((4,)), 2),
    )
    uneven = VAE(
        StandardNormal(2),
        MLP((2,), (1, 4), hidden=(7,)),
        Bernoulli((4,)),
        MeanField(MLP((4,)), 2),
    )
    for vae, words in ((foreign, "decoder is Linear"), (uneven, "decoder is MLP(")):
        with pytest.raises(InputError) as error:
            save(vae, "mine.safetensors")
        mentions(str(error.value), "no Spec describes this VAE", words, "torch.save")
    other = Spec((4,), 2, likelihood="bernoulli", guide="fullrank")
    with pytest.raises(InputError, match="its guide is MeanField"):
        save(by_hand(), "mine.safetensors", spec=other)


def test_a_run_by_its_checkpoint_file(trained):
    whole, file = load(trained), load(trained / "best.safetensors")
    assert all(
        torch.equal(v, file.state_dict()[k]) for k, v in whole.state_dict().items()
    )
    with pytest.raises(InputError, match=r"no checkpoint none\.safetensors"):
        load("none.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(trained):
    for device in ("cuda", torch.device("cuda"), "gpu"):
        with pytest.raises(InputError) as error:
            load(trained, device=device)
        mentions(str(error.value), "is not available here")
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(InputError, match="is not available"):
        open_run(trained, device="cuda")
