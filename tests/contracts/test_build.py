"""The grammar of members, and the way from words to a VAE and back."""

import math

import pyro.infer
import pytest
import torch

from pyro_vae import InputError, Spec, build, load
from pyro_vae.checkpoint import read_checkpoint, restore_training, save_checkpoint
from pyro_vae.inference.fit import Progress
from pyro_vae.inference.objectives import ELBO
from pyro_vae.inference.svi import SVI
from pyro_vae.spec import parse, parse_optimizer, parse_schedule


@pytest.mark.parametrize(
    ("axis", "text", "canonical"),
    [
        ("likelihood", "bernoulli", "Bernoulli()"),
        ("likelihood", "BERNOULLI()", "Bernoulli()"),
        ("guide", "mean-field", "MeanField()"),
        ("guide", "full_rank()", "FullRank()"),
        ("likelihood", " gaussian( scale = 'learned' ) ", "Gaussian(scale='learned')"),
        (
            "network",
            "mlp(hidden=(200,200), activation='tanh')",
            "MLP(hidden=(200, 200), activation='tanh')",
        ),
        ("objective", "iwae(num_particles=50)", "IWAE(num_particles=50)"),
        (
            "objective",
            "pyro.infer:Trace_ELBO(num_particles=2)",
            "pyro.infer:Trace_ELBO(num_particles=2)",
        ),
        (
            "objective",
            "annealed(objective=elbo(beta=4.0), epochs=3)",
            "Annealed(objective=ELBO(beta=4.0), epochs=3)",
        ),
        (
            "guide",
            "semiamortized(guide='low_rank(rank=3)')",
            "SemiAmortized(guide=LowRank(rank=3))",
        ),
        (
            "likelihood",
            "zero-inflated(likelihood=negativebinomial)",
            "ZeroInflated(likelihood=NegativeBinomial())",
        ),
        (
            "likelihood",
            "zeroinflated(likelihood='pyro_vae.models.likelihoods:Poisson()')",
            "ZeroInflated(likelihood='pyro_vae.models.likelihoods:Poisson()')",
        ),
    ],
)
def test_the_canonical_spelling_reads_back(axis, text, canonical):
    member = parse(axis, text)
    assert str(member) == canonical
    assert str(parse(axis, str(member))) == canonical
    assert parse(axis, canonical).arguments == member.arguments


def test_arguments_arrive():
    vae = build(
        Spec(
            (4,),
            2,
            network="mlp(hidden=(7, 5))",
            likelihood="gaussian(scale=0.25)",
            guide="fullrank",
        )
    )
    assert [
        m.out_features
        for m in vae.guide.encoder.body.layers
        if hasattr(m, "out_features")
    ] == [7, 5]
    assert [
        m.out_features for m in vae.model.decoder.layers if hasattr(m, "out_features")
    ] == [
        5,
        7,
        4,
    ]
    assert vae.decode(torch.zeros(2)).stddev.tolist() == [0.25] * 4
    assert isinstance(
        parse("objective", "pyro.infer:TraceMeanField_ELBO")(),
        pyro.infer.TraceMeanField_ELBO,
    )
    assert parse("objective", "elbo(beta=0.5)")().beta == 0.5


@pytest.mark.parametrize(
    ("axis", "text", "words"),
    [
        ("guide", "meanfeild", "did you mean meanfield"),
        ("guide", "", "is not of the form"),
        (
            "network",
            "mlp(hiden=(3,))",
            "has no argument hiden: it takes hidden, .*did you mean hidden",
        ),
        ("network", "mlp((3,))", "give every argument by name"),
        ("network", "mlp(**{'hidden': (3,)})", "give every argument by name"),
        ("network", "mlp(hidden=(3,", "is not of the form"),
        ("network", "__import__('os').getcwd()", "is not of the form"),
        ("network", "mlp(hidden=open('x'))", "is not of the form"),
        ("likelihood", "no.such.module:Thing", "cannot be imported"),
        ("likelihood", "pyro_vae:MeanField", "not a finished subclass of Likelihood"),
        ("likelihood", "pyro_vae:Likelihood", "not a finished subclass"),
        ("guide", "delta(features=3)", "it takes none"),
        (
            "guide",
            "semiamortized(guide=fulrank())",
            "--guide fulrank is unknown: .*did you mean fullrank",
        ),
        ("objective", "annealed(objective=iwae(k=5))", "iwae has no argument k"),
        ("objective", "annealed(objective=3)", "is not of the form"),
    ],
)
def test_what_cannot_be_read_is_said(axis, text, words):
    with pytest.raises(InputError, match=words):
        parse(axis, text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_dim": 0}, "latent-dim"),
        ({"likelihood": "gaussian(scale=-1)"}, "scale=-1"),
        ({"likelihood": "gaussian(scale='big')"}, "scale='big'"),
        ({"likelihood": "gaussian(scale=(1, 2))"}, "scale=\\(1, 2\\)"),
        ({"likelihood": "gaussian(min_scale=0)"}, "min_scale=0"),
        ({"network": "mlp(hidden=(0,))"}, "hidden"),
        ({"network": "mlp(hidden='a')"}, "hidden"),
        ({"network": "mlp(hidden=3.5)"}, "hidden"),
        ({"network": "mlp(activation='swoosh')"}, "swoosh"),
        ({"network": "mlp(dropout=1)"}, "dropout"),
        ({"network": "convnet"}, "images"),
        ({"network": "convnet(channels=())", "shape": (8, 8)}, "at least one layer"),
    ],
)
def test_specs_that_cannot_be_built(changes, words):
    with pytest.raises(InputError, match=words):
        build(Spec(**{"shape": (4,), **changes}))


def test_optimizers_and_schedules():
    p = [torch.nn.Parameter(torch.zeros(1))]
    assert isinstance(parse_optimizer("sgd(momentum=0.9)")(p, lr=0.1), torch.optim.SGD)
    adam = parse_optimizer("ADAM(betas=(0.8, 0.9))")(p, lr=0.1)
    assert (adam.defaults["betas"], adam.defaults["lr"]) == ((0.8, 0.9), 0.1)
    assert [parse_schedule("constant")(t) for t in (0, 0.5, 1)] == [1, 1, 1]
    assert [parse_schedule("step")(t) for t in (0, 0.69, 0.7, 0.89, 0.9)] == [
        1,
        1,
        0.3,
        0.3,
        0.1,
    ]
    assert parse_schedule("cosine")(0) == 1
    assert parse_schedule("cosine")(1) == pytest.approx(0, abs=1e-12)
    assert parse_schedule("cosine(floor=0.2)")(0.5) == pytest.approx(0.6)
    for bad in (
        "cosine(flor=1)",
        "linear",
        "step(at=(0.5,), factors=())",
        "cosine(floor='a')",
    ):
        with pytest.raises(InputError):
            parse_schedule(bad)
    with pytest.raises(InputError, match="did you mean adam"):
        parse_optimizer("adamm")


def test_spec_round_trip():
    spec = Spec((3, 4), 5, guide="fullrank")
    assert Spec.from_dict(spec.to_dict()) == spec
    with pytest.raises(InputError, match="not the description"):
        Spec.from_dict({"latent_dim": 3})


@pytest.mark.parametrize("optimizer", ["adam", "sgd(momentum=0.9)", "rmsprop"])
def test_a_checkpoint_restores_everything(tmp_path, optimizer):
    spec = Spec((4,), 2, network="mlp(hidden=(3,))")

    def make():
        torch.manual_seed(0)
        vae = build(spec)
        return vae, SVI(
            vae.model,
            vae.guide,
            lambda p: parse_optimizer(optimizer)(p, lr=0.01),
            ELBO(),
        )

    x = torch.ones(6, 4)
    vae, svi = make()
    for _ in range(3):
        svi.step(x)
    path = tmp_path / "c.safetensors"
    progress = Progress(
        epoch=2,
        order=torch.tensor([2, 0, 1]),
        position=1,
        totals=(1.0, 2.0, 3.0),
        seconds=0.5,
    )
    save_checkpoint(
        path,
        vae,
        spec,
        epoch=2,
        score=math.pi,
        optimizer=svi.optimizer,
        progress=progress,
        best=None,
    )
    expected = [svi.step(x).item() for _ in range(3)]

    again, other = make()
    restored, header = restore_training(path, again, other.optimizer)
    assert [other.step(x).item() for _ in range(3)] == expected
    assert (restored.epoch, restored.position, restored.totals, restored.seconds) == (
        2,
        1,
        (1.0, 2.0, 3.0),
        0.5,
    )
    assert restored.order.tolist() == [2, 0, 1]
    assert (header["score"], header["best"]) == (math.pi, None)
    for a, b in zip(vae.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run"):
        load(tmp_path)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, build(Spec((4,), 2)), Spec((4,), 2), epoch=1, score=0.0)
    assert not load(tmp_path).training
    with pytest.raises(InputError, match="weights only"):
        restore_training(path, build(Spec((4,), 2)), None)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path)
