"""`train --from RUN --prior ...`: a second prior on the codes of a run, from the command line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pyro_vae import load, plots
from reading import contents, mentions, rows, same, toml, weights

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

FLOW = ("--prior", "flow(transforms=1, hidden=(8,))", "--learning-rate", 0.01)
MIXTURE = ("--prior", "gaussianmixture(components=3)")


def kept(run, which="last"):
    """The weights of everything but the prior."""
    named = weights(run, which).items()
    return {k: v for k, v in named if not k.startswith("model.model.prior.")}


def test_everything_but_the_prior_stays(call, trained, train):
    before = contents(trained)
    said = call("train", "--from", trained, *MIXTURE, "--output", "new")
    assert (said.code, said.err) == (0, "")
    assert contents(trained) == before
    mentions(said.out, "a second prior of", "log p(x) of 359 test data, 1000 particles")
    mentions(said.out, "before", "StandardNormal()", "after", "paired")
    new = train("again", "--config", "new/config.toml")
    for which in ("best", "last"):
        assert same(kept(new, which), kept(trained, "best"))
        assert same(weights(new, which), weights(new.parent / "new", which))
    assert len(rows(new)) == len(rows(trained))
    config = toml(new)
    assert (config["prior"], config["objective"]) == (
        MIXTURE[1].replace("gaussianmixture", "GaussianMixture"),
        "ELBO()",
    )
    assert (new / config["from"]).resolve() == trained.resolve()
    assert (new / "figures" / "second_prior.png").is_file()
    assert same(
        load_file(new / "before.safetensors"), load_file(trained / "best.safetensors")
    )


def test_pictures_before_and_after_are_apart_on_any_scale(call, trained, monkeypatch):
    made, grid = {}, plots.grid

    def seen(x, **options):
        made[options["title"]] = x, options["columns"]
        return grid(x, **options)

    monkeypatch.setattr(plots, "grid", seen)
    said = call("train", "--from", trained, *MIXTURE, "--output", "new")
    assert said.code == 0, said.err
    (picture,) = (each for title, each in made.items() if "before (left)" in title)
    x, columns = picture[0].flatten(1), picture[1]
    between = torch.arange(len(x)) % columns == columns // 2
    assert x[between].isnan().all()
    assert not x[~between].isnan().any()


@pytest.mark.slow
def test_the_gain_is_that_of_an_evaluation(call, trained, train):
    """The numbers in the file are those that `compare` finds between the two runs, up to the draws."""
    shutil.copytree(trained, "old")
    new = train("new", "--from", "old", *FLOW, "--epochs", 4)
    for run in ("old", new):
        options = ("--num-particles", 1000, "--ask", "weighted")
        assert call("evaluate", run, *options).code == 0
    said = call("compare", new, "old", "--json", "difference.json")
    assert said.code == 0
    told = json.loads((new / "second_prior.json").read_text())
    with open("difference.json") as file:
        found = json.load(file)
    assert (told["of"], told["split"], told["data"]) == ("log p(x)", "test", 359)
    assert told["gain"]["mean"] > 0
    (other,) = found["differences_to_best"].values()
    assert found["best"] == str(new)
    assert told["gain"]["mean"] == pytest.approx(
        -other["mean"], abs=4 * other["monte_carlo_standard_error"]
    )
    assert call("sample", new, "--count", 8).code == 0
    assert load(new).sample(3).shape == (3, 8, 8)


def test_resumed_second_prior_is_the_uninterrupted_one(call, trained, train):
    """Where the other run is gone, too."""
    shutil.copytree(trained, "old")
    whole = train("whole", "--from", "old", *FLOW, "--epochs", 3)
    parts = train("parts", "--from", "old", *FLOW, "--epochs", 1)
    assert not same(weights(whole), weights(parts))
    shutil.rmtree("old")
    said = call("train", "--resume", parts, "--epochs", 3)
    assert (said.code, said.err) == (0, "")
    for which in ("best", "last"):
        one, other = (load_file(r / f"{which}.safetensors") for r in (whole, parts))
        assert same(one, other)
    assert any(
        key.startswith("optimizer.") for key in load_file(whole / "last.safetensors")
    )
    numbers = [
        json.loads((r / "second_prior.json").read_text()) for r in (whole, parts)
    ]
    assert numbers[0] == numbers[1]
    assert "nothing is missing" in call("train", "--resume", parts).out


@pytest.mark.slow
def test_of_a_second_prior_a_third(trained, train):
    second = train("second", "--from", trained, *MIXTURE, "--epochs", 1)
    third = train("third", "--from", second, *FLOW, "--epochs", 1)
    assert same(kept(third), kept(trained, "best"))
    told = json.loads((third / "second_prior.json").read_text())
    assert told["priors"]["before"] == "GaussianMixture(components=3)"


@pytest.mark.slow
def test_what_is_kept_of_layers(trained, train, refused):
    """The prior of the top is replaced, and those below stay with the decoder."""
    ladder = ("--structure", "chain(dims=(4,3))", "--network", "mlp(hidden=(8,))")
    old = train(
        "old", *ladder, "--prior", "standardnormal, z1=conditional", "--epochs", 1
    )
    new = train("new", "--from", old, *MIXTURE, "--epochs", 1)
    assert toml(new)["prior"] == "GaussianMixture(components=3), z1=Conditional()"
    assert toml(new)["objective"] == "ELBO()"
    assert same(kept(new), kept(old, "best"))
    said = refused(
        "train", "--from", old, "--prior", "flow, z1=conditional(components=2)"
    )
    mentions(said, "the one of z1 is kept")


@pytest.mark.slow
def test_parts_are_not_sought_again(train):
    """q(y|x) and p(y) of clusters are kept, whose run seeks them after an epoch."""
    clusters = (
        "--structure",
        "clusters(start=1, uniform=False)",
        "--network",
        "mlp(hidden=(8,))",
    )
    old = train("old", *clusters, "--epochs", 2, "--latent-dim", 3)
    new = train(
        "new", "--from", old, "--prior", "conditional(components=2)", "--epochs", 2
    )
    assert same(kept(new), kept(old, "best"))


def test_codes_without_a_density(call, train):
    old = train(
        "old", "--guide", "delta", "--network", "mlp(hidden=(8,))", "--epochs", 1
    )
    said = call("train", "--from", old, *MIXTURE, "--epochs", 1, "--output", "new")
    assert said.code == 0
    assert "log p(z) of the codes of 359 test data:" in said.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["say which, as in --prior flow"]),
        (("--prior", "standardnormal"), ["nothing is learned"]),
        (("--prior", "codes"), ["Codes"]),
        (("--prior", "categorical"), ["Categorical"]),
        (("--prior", "conditional"), ["no condition"]),
        (("--prior", "gaussianmixture(start=3)"), ["start=3", "leave it out"]),
        (("--prior", "flow", "--network", "mlp"), ["--network", "leave it out"]),
        (("--prior", "flow", "--likelihood", "gaussian"), ["--likelihood"]),
        (("--prior", "flow", "--dataset", "mnist"), ["--dataset"]),
        (("--prior", "flow", "--latent-dim", 5), ["--latent-dim 5"]),
        (("--prior", "flow", "--guide", "fullrank"), ["--guide"]),
        (("--prior", "flow", "--precision", "float64"), ["--precision"]),
        (("--prior", "flow", "--weight-decay", 0.1), ["--weight-decay"]),
        (("--prior", "flow", "--output", "run", "--overwrite"), ["itself"]),
        (("--prior", "flow", "--output", "run"), ["itself"]),
    ],
)
def test_what_is_no_second_prior(refused, trained, tmp_path, options, words):
    shutil.copytree(trained, tmp_path / "run")
    mentions(refused("train", "--from", "run", *options), *words)


def test_a_run_that_is_none(refused, tmp_path):
    mentions(
        refused("train", "--from", "none", "--prior", "flow"), "none", "does not exist"
    )
    (tmp_path / "empty").mkdir()
    mentions(refused("train", "--from", "empty", "--prior", "flow"), "empty")
    (tmp_path / "mine.toml").write_text('from = "none"\nprior = "flow"\n')
    mentions(refused("train", "--config", "mine.toml"), "none", "does not exist")


@pytest.mark.slow
def test_labels_that_were_kept_by_the_seed(refused, train):
    old = train(
        "old",
        "--structure",
        "labelled",
        "--labelled",
        50,
        "--network",
        "mlp(hidden=(8,))",
        "--epochs",
        1,
    )
    said = refused("train", "--from", old, "--prior", "flow", "--seed", 3)
    mentions(said, "--seed 3", "keep their labels")
    new = train("new", "--from", old, *MIXTURE, "--epochs", 1)
    assert same(kept(new), kept(old, "best"))
    assert torch.equal(
        *(weights(r, "best")["model.guide.classifier.head.weight"] for r in (old, new))
    )
