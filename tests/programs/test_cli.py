"""The programs as a person uses them: train, evaluate, sample, in a temporary folder."""

import json
import math
import shlex
import shutil
import tomllib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from pyro_vae import variants
from pyro_vae._config import OPTIONS, flag
from pyro_vae.inference.fit import Epoch
from pyro_vae.spec import AXES
from reading import TINY, mentions, newest, rows, same, toml, weights

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

PLANE = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2)


@pytest.fixture
def trained(trained, tmp_path_factory):
    """A copy of the run, since evaluation writes into it."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("copy") / "run")


def assert_picture(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 50, path
    assert len(np.unique(pixels)) > 10, path


def test_from_training_to_samples(start, tmp_path):
    def go(*command):
        process = start(tmp_path, *command)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        return out

    def following(out):
        python, m, *command = shlex.split(out.rpartition("next: ")[2])
        assert (python, m) == ("python", "-m")
        return command

    out = go("pyro_vae.train", "--epochs", 3)
    run = tmp_path / "runs" / "digits-bernoulli"
    assert [
        line.split(":")[0] for line in out.splitlines() if line.startswith("epoch")
    ] == [
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
    ]
    assert "\r" not in out
    metrics = rows(run)
    assert list(metrics[0]) == list(Epoch._fields)
    assert [row["epoch"] for row in metrics] == ["1", "2", "3"]
    for row in metrics:
        for name in ("", "validation_"):
            bound, reconstruction, kl = (
                float(row[name + part]) for part in ("elbo", "reconstruction", "kl")
            )
            assert bound == reconstruction - kl
            assert kl > 0
    best = max(metrics, key=lambda row: float(row["validation_elbo"]))
    with safe_open(run / "best.safetensors", "pt") as file:
        header = json.loads(file.metadata()["pyro_vae"])
    assert (header["epoch"], header["score"]) == (
        int(best["epoch"]),
        float(best["validation_elbo"]),
    )
    assert toml(run)["resolved"]["sizes"] == {
        "train": 1294,
        "validation": 144,
        "test": 359,
    }
    assert {p.stem for p in (run / "figures").iterdir()} == {
        "learning_curves",
        "reconstructions",
        "prior_samples",
    }
    for path in (run / "figures").iterdir():
        assert_picture(path)

    out = go(*following(out), "--num-particles", 50, "--netcdf", "evaluation.nc")
    summary = json.loads((run / "evaluation.json").read_text())
    with np.load(run / "evaluation.npz") as file:
        columns = dict(file)
    assert {len(v) for v in columns.values()} == {359}
    assert summary["log_marginal"]["mean"] == pytest.approx(
        columns["values"].mean(), rel=1e-12
    )
    np.testing.assert_allclose(
        columns["elbo"], columns["reconstruction"] - columns["kl"]
    )
    assert (columns["values"] >= columns["elbo"]).all()  # Jensen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        data = arviz.from_netcdf(tmp_path / "evaluation.nc")
    np.testing.assert_array_equal(
        data.log_likelihood["x"].to_numpy().squeeze(), columns["values"]
    )
    np.testing.assert_array_equal(data.sample_stats["ess"].to_numpy(), columns["ess"])

    go(*following(out))
    kinds = {"prior", "reconstructions", "interpolation", "traversal", "attributes"}
    assert {p.stem for p in (run / "samples").iterdir()} == kinds
    for kind in kinds:
        assert_picture(run / "samples" / f"{kind}.png")
        values = np.load(run / "samples" / f"{kind}.npy")
        assert values.shape[-2:] == (8, 8)
        assert ((values >= 0) & (values <= 1)).all()
    assert np.load(run / "samples" / "prior.npy").shape == (100, 8, 8)


def test_two_latents_are_drawn_in_the_plane(call, train):
    run = train("run", "--epochs", 1, *PLANE)
    assert_picture(run / "figures" / "manifold.png")
    assert_picture(run / "figures" / "posterior_means.png")
    assert call("sample", run, "--kind", "manifold").code == 0
    assert_picture(run / "samples" / "manifold.png")
    values = np.load(run / "samples" / "manifold.npy")
    assert values.reshape(-1, 8, 8).std(0).max() > 0  # the plane is not one colour


def test_seeds_decide_what_is_drawn(call, trained, tmp_path):
    def prior(seed, name):
        assert (
            call(
                "sample",
                trained,
                "--kind",
                "prior",
                "--draws",
                "--seed",
                seed,
                "--output",
                tmp_path / name,
            ).code
            == 0
        )
        return np.load(tmp_path / name / "prior.npy")

    first, again, other = prior(1, "a"), prior(1, "b"), prior(2, "c")
    assert set(np.unique(first)) == {0, 1}  # draws from a Bernoulli
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("program", ["train", "evaluate", "sample"])
def test_help(call, program):
    said = call(program, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"python -m pyro_vae.{program}" in said.out
    mentions(said.out, "examples:", f"  python -m pyro_vae.{program} ")
    if program == "train":
        for name in OPTIONS:
            assert f"\n  {flag(name)}" in said.out


def test_help_lists_what_options_can_be(call):
    """Of all, of one, and, behind a word that is none of them, the options."""
    every = call("train", "--help", "members").out
    for axis, (family, _, _) in AXES.items():
        one = call("train", "--help", axis).out
        for member in variants(family):
            assert f"\n  {member.lower()}(" in every, (axis, member)
            assert f"\n  {member.lower()}(" in one, (axis, member)
    assert "--prior" not in one
    mentions(call("evaluate", "--help", "ask").out, "members for --ask", "  ais(")
    assert call("evaluate", "--help", "members").out.count("members for") == 1
    for words in (("--help", "runs/digits"), ("runs/digits", "--help")):
        said = call("evaluate", *words)
        assert (said.code, said.err) == (0, "")
        mentions(said.out, "--num-particles", "--help ask", "--help members")


def test_dry_run_writes_nothing(call, tmp_path):
    said = call(
        "train",
        "--dry-run",
        "--network",
        "mlp(hidden=(7,))",
        "--output",
        "run",
        "--epochs",
        5,
    )
    assert (said.code, said.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert "[1, 7]" in said.out  # the shape behind the hidden layer
    resolved = tomllib.loads(said.out.partition("\n\n")[2])
    assert (resolved["epochs"], resolved["network"]) == (5, "MLP(hidden=(7,))")


def test_config_file(call, train, tmp_path):
    (tmp_path / "c.toml").write_text(
        'latent-dim = 5\nbatch_size = 50\nepochs = 9\nnetwork = "mlp(hidden=(8,))"\n'
    )
    run = train("run", "--config", "c.toml", "--epochs", 1)
    assert {k: toml(run)[k] for k in ("latent_dim", "batch_size", "epochs")} == {
        "latent_dim": 5,
        "batch_size": 50,
        "epochs": 1,
    }
    again = train("again", "--config", run / "config.toml")
    assert same(weights(run), weights(again))
    other = train("other", "--config", run / "config.toml", "--seed", 1)
    assert not same(weights(run), weights(other))


def test_overwrite_and_numbered_folders(call, train, tmp_path):
    run = train("run", "--epochs", 2, *TINY)
    train("run", "--epochs", 1, *TINY, "--seed", 3, "--overwrite")
    assert len(rows(run)) == 1
    assert toml(run)["seed"] == 3
    for _ in range(3):
        assert call("train", "--epochs", 1, *TINY).code == 0
    names = {p.name for p in (tmp_path / "runs").iterdir()}
    stem = "digits-bernoulli-mlp-8-z3"
    assert names == {stem, f"{stem}-2", f"{stem}-3"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "digits-bernoulli"),
        (("--prior", "standardnormal"), "digits-bernoulli"),
        (
            ("--guide", "lowrank(rank=2)", "--objective", "iwae(num_particles=5)"),
            "digits-bernoulli-lowrank-2-iwae-5",
        ),
        (
            ("--network", "mlp(hidden=(8,))", "--seed", 3, "--learning-rate", "1e-4"),
            "digits-bernoulli-mlp-8-rate0.0001-seed3",
        ),
        (("--seed", 12345678), "digits-bernoulli-seed12345678"),
        (("--condition", "label"), "digits-bernoulli-given"),
    ],
)
def test_a_run_is_called_after_what_is_not_as_usual(call, tmp_path, options, name):
    assert call("train", "--epochs", 1, *options).code == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [name]


@pytest.fixture(scope="module")
def grey():
    """Sixty grey images of two kinds."""
    x = np.random.default_rng(0).integers(0, 256, (60, 5, 4)).astype(np.uint8)
    x[30:, 2:] //= 4
    return x


def image_folder(path, grey):
    for i, image in enumerate(grey):
        folder = path / "dark" if i >= 30 else path / "bright"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")


def test_one_data_set_in_any_container_trains_the_same_weights(train, tmp_path, grey):
    kinds = np.repeat(["bright", "dark"], 30)
    order = np.argsort(kinds, kind="stable")
    np.save("x.npy", grey)
    np.savez("plain.npz", images=grey)
    np.savez("labelled.npz", x=grey, y=kinds)
    image_folder(tmp_path / "pictures", grey[order])
    options = ("--epochs", 1, "--binarize", "dynamic", *PLANE)
    runs = {
        f: train(f"run-{f}", "--dataset", f, *options)
        for f in ("x.npy", "plain.npz", "labelled.npz", "pictures")
    }
    for run in runs.values():
        assert toml(run)["resolved"]["shape"] == [5, 4]
        assert toml(run)["resolved"]["sizes"] == {
            "train": 43,
            "validation": 5,
            "test": 12,
        }
        assert same(weights(run), weights(runs["x.npy"]))
    plane = {
        f: (run / "figures" / "posterior_means.png").read_bytes()
        for f, run in runs.items()
    }
    assert plane["x.npy"] == plane["plain.npz"]
    assert (
        plane["labelled.npz"] == plane["pictures"] != plane["plain.npz"]
    )  # coloured by kind


def test_tables(call, train, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.save("x.npy", x)
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    (tmp_path / "plain.csv").write_text("\n".join(lines))
    named = ["a,kind,b,c"]
    named += [
        f"{i!r},{'uv'[n % 2]},{j!r},{k!r}" for n, (i, j, k) in enumerate(x.tolist())
    ]
    (tmp_path / "named.csv").write_text("\n".join(named))
    options = ("--epochs", 1, "--likelihood", "gaussian", *TINY)
    array = train("array", "--dataset", "x.npy", *options)
    plain = train("plain", "--dataset", "plain.csv", *options)
    named = train("named", "--dataset", "named.csv", "--labels", "kind", *options)
    assert same(weights(array), weights(plain))
    assert same(weights(array), weights(named))
    assert toml(array)["resolved"]["representation"] == "REAL"
    assert call("evaluate", named, "--num-particles", 20).code == 0
    assert call("sample", named, "--count", 10).code == 0


def test_own_splits(call, train, grey):
    np.savez("x.npz", train=grey[:40], valid=grey[40:47], test=grey[47:])
    run = train(
        "run", "--dataset", "x.npz", "--binarize", "static", "--epochs", 1, *TINY
    )
    assert toml(run)["resolved"]["sizes"] == {"train": 40, "validation": 7, "test": 13}
    for split, size in (("train", 40), ("validation", 7), ("test", 13)):
        assert call("evaluate", run, "--split", split, "--num-particles", 10).code == 0
        name = "evaluation.json" if split == "test" else f"evaluation-{split}.json"
        assert json.loads((run / name).read_text())["data"] == size


def test_binarize(train, grey):
    np.save("x.npy", grey)
    np.save("bits.npy", (grey >= 128).astype(np.uint8))
    options = ("--epochs", 2, *TINY)
    runs = {
        kind: train(kind, "--dataset", "x.npy", "--binarize", kind, *options)
        for kind in ("threshold", "static", "dynamic")
    }
    for kind, run in runs.items():
        resolved = toml(run)["resolved"]
        assert (
            resolved["bridge"],
            resolved["representation"],
            resolved["maximum"],
        ) == (
            kind,
            "BINARY",
            255,
        )
    assert same(
        weights(runs["threshold"]),
        weights(train("bits", "--dataset", "bits.npy", *options)),
    )
    assert not same(weights(runs["static"]), weights(runs["dynamic"]))


@pytest.mark.parametrize("precision", ["float64", "bf16"])
def test_precision(call, train, precision):
    run = train("run", "--precision", precision, "--epochs", 1, *TINY)
    expected = torch.float64 if precision == "float64" else torch.float32
    assert {v.dtype for v in weights(run).values() if v.is_floating_point()} == {
        expected
    }
    assert call("evaluate", run, "--num-particles", 5, "--limit", 5).code == 0
    assert call("sample", run, "--count", 5).code == 0


def test_tensorboard(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("run", "--log", "tensorboard", "--epochs", 2, *TINY)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name in ("elbo", "validation_kl"):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert found == [
            (int(r["epoch"]), pytest.approx(float(r[name]), rel=1e-6))
            for r in rows(run)
        ]


MY_GUIDES = '''
import pyro.distributions as dist
import torch
from pyro_vae import Guide

class Wide(Guide):
    """A guide with one scale for all data."""

    def __init__(self, encoder, latent_dim, *, scale=1.0, features=None):
        super().__init__(encoder, latent_dim, features=features)
        self.head = torch.nn.Linear(self.features, latent_dim)
        self.wide = scale

    def posterior(self, h):
        return dist.Normal(self.head(h), self.wide).to_event(1)
'''


def test_a_guide_of_ones_own(start, call, tmp_path, monkeypatch):
    (tmp_path / "my_guides.py").write_text(MY_GUIDES)
    guide = "my_guides:Wide(scale=0.25)"
    process = start(
        tmp_path,
        "pyro_vae.train",
        "--guide",
        guide,
        "--epochs",
        1,
        *TINY,
        "--output",
        "run",
    )
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert toml(tmp_path / "run")["guide"] == guide
    monkeypatch.syspath_prepend(tmp_path)
    few = ("--num-particles", 10, "--limit", 10)
    assert call("evaluate", "run", *few).code == 2
    assert call("evaluate", "run", *few, "--trust").code == 0
    assert call("train", "--resume", "run", "--epochs", 2, "--trust").code == 0


def test_objective_of_pyro_schedule_and_optimizer(train):
    options = (
        "--schedule",
        "cosine(floor=0.5)",
        "--optimizer",
        "sgd(momentum=0.9)",
        "--learning-rate",
        0.001,
    )
    run = train(
        "run",
        "--objective",
        "pyro.infer:TraceMeanField_ELBO",
        *options,
        "--epochs",
        3,
        *TINY,
    )
    metrics, steps = rows(run), math.ceil(1294 / 100)
    for i, row in enumerate(metrics):
        t = (i + 1 - 1 / steps) / 3  # at the last step of the epoch
        assert float(row["learning_rate"]) == pytest.approx(
            0.001 * (0.75 + 0.25 * math.cos(math.pi * t))
        )
        assert float(row["elbo"]) == float(row["reconstruction"]) - float(row["kl"])
    assert float(metrics[-1]["elbo"]) > float(metrics[0]["elbo"])


def test_a_guide_that_is_a_point_is_reported_as_such(call, refused):
    said = call("train", "--guide", "delta", "--epochs", 1, *TINY, "--output", "run")
    assert said.code == 0
    assert "ELBO" not in said.out.split("objective")[1].split("\n", 1)[1]
    assert said.out.count("log p(x, z) -") == 2  # of the epoch, and of the run
    said = call("evaluate", "run")
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "without a density", "no log p(x)", "squared error")
    assert call("sample", "run").code == 0


def test_members_inside_members(train):
    objective = "annealed(objective=iwae(num_particles=2), epochs=2)"
    run = train(
        "run",
        "--guide",
        "semiamortized(guide=fullrank, steps=1)",
        "--objective",
        objective,
        "--prior",
        "vampprior(pseudo_inputs=20)",
        "--epochs",
        2,
        *TINY,
    )
    assert toml(run)["guide"] == "SemiAmortized(guide=FullRank(), steps=1)"
    assert (
        toml(run)["objective"] == "Annealed(objective=IWAE(num_particles=2), epochs=2)"
    )
    assert len(rows(run)) == 2


def test_a_reader_that_has_gone(start, tmp_path):
    process = start(tmp_path, "pyro_vae.train", "--dry-run")
    with process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_evaluation_with_everything(call, trained):
    kinds = (
        "--adaptive",
        "--gaps",
        "--ais",
        "--bdmc",
        10,
        "--chains",
        4,
        "--temperatures",
        10,
    )
    said = call("evaluate", trained, "--limit", 20, "--num-particles", 100, *kinds)
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        "Gaussians fitted to p(z|x)",
        "approximation",
        "annealed chains",
        "leaves a gap",
        "latents are active",
    )
    s = json.loads(newest(trained).read_text())
    assert s["ais"]["num_chains"] == 4
    assert (s["ais"]["start"], s["bdmc"]["schedule"]) == ("prior", "adaptive")
    assert sum(s["roads"].values()) == 20
    assert (
        f"{s['roads']['guide']} of 20 data were left to the guide's own draws"
        in said.out
    )
    assert s["bdmc"]["lower"] < s["bdmc"]["upper"] + 1
    assert s["gaps"]["inference"]["mean"] == pytest.approx(
        s["gaps"]["approximation"]["mean"] + s["gaps"]["amortisation"]["mean"]
    )
    assert len(s["latents"]["activity"]) == 3
    with np.load(newest(trained, "evaluation*.npz")) as columns:
        assert (
            columns["ais_values"].shape
            == columns["values"].shape
            == columns["num_particles"].shape
            == (20,)
        )
        assert (columns["road"] == 0).sum() == s["roads"]["guide"]
    assert_picture(newest(trained, "figures/*/aggregated_posterior.png"))


def test_annealing_starts_and_goes_as_asked(call, trained):
    means = {}
    for start, schedule in (
        ("prior", "sigmoid"),
        ("guide", "sigmoid"),
        ("guide", "linear"),
    ):
        path = ("--temperatures", 4, "--anneal-from", start, "--schedule", schedule)
        said = call(
            "evaluate",
            trained,
            "--limit",
            20,
            "--num-particles",
            50,
            "--ais",
            "--bdmc",
            5,
            *path,
        )
        assert (said.code, said.err) == (0, "")
        s = json.loads(newest(trained).read_text())
        assert {s[part]["start"] for part in ("ais", "bdmc")} == {start}
        means[start, schedule] = s["ais"]["mean"]
    assert len(set(means.values())) == 3


def test_refined_evaluation_is_nearer_to_the_posterior(call, trained):
    found = []
    for options in ((), ("--refine", 50)):
        assert (
            call(
                "evaluate", trained, "--limit", 50, "--num-particles", 200, *options
            ).code
            == 0
        )
        found.append(json.loads(newest(trained).read_text()))
    assert found[1]["elbo"]["mean"] > found[0]["elbo"]["mean"]
    assert found[1]["refinement_steps"] == 50
