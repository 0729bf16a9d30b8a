"""Scores of outliers against linear-Gaussian models, AUROC against scikit-learn and the binormal curve, and --ood."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch.distributions import MultivariateNormal, kl_divergence

from ppca import PPCA
from pyro_vae import InputError, anomaly_scores, detection
from pyro_vae.evaluation.outliers import AnomalyScores, Detection, Separation
from pyro_vae.trained import open_run
from reading import mentions, newest

# --- the area under the ROC curve


def drawn(n, m, shift=1.0, *, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    s, t = rng.normal(shift, 1.3, n), rng.normal(0, 1, m)
    return (s.round(), t.round()) if ties else (s, t)


def labelled(s, t):
    return np.repeat([1, 0], [len(s), len(t)]), np.concatenate([s, t])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (40, 40), (60, 25), (33, 400)])
def test_area_and_fpr_are_those_of_scikit_learn(n, m, ties):
    s, t = drawn(n, m, ties=ties)
    found = detection(s, t)
    assert found.auroc == pytest.approx(roc_auc_score(*labelled(s, t)), abs=1e-12)
    fpr, tpr, _ = roc_curve(*labelled(s, t), drop_intermediate=False)
    assert found.fpr == pytest.approx(fpr[tpr >= 0.95 - 1e-12].min(), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_the_error_is_that_of_all_pairs(ties):
    """DeLong's variance by its definition: the kernel for each pair, its means by row and by column."""
    s, t = drawn(37, 52, ties=ties)
    kernel = (s[:, None] > t) + 0.5 * (s[:, None] == t)
    variance = kernel.mean(1).var(ddof=1) / len(s) + kernel.mean(0).var(ddof=1) / len(t)
    assert detection(s, t).standard_error == pytest.approx(
        math.sqrt(variance), rel=1e-12
    )


def test_the_error_is_that_of_the_bootstrap():
    s, t = drawn(200, 150)
    rng = np.random.default_rng(1)
    areas = [
        detection(rng.choice(s, len(s)), rng.choice(t, len(t))).auroc
        for _ in range(1000)
    ]
    assert detection(s, t).standard_error == pytest.approx(
        np.std(areas), rel=0.1
    )  # 1000 draws: 2.2 %, 4.5 of them


@pytest.mark.parametrize("d", [0.3, 1.5, 2.5])
def test_the_interval_covers_the_binormal_area(d):
    """`AUROC = Phi(d / sqrt 2)` for normal scores d apart."""
    rng, truth, count = np.random.default_rng(0), norm.cdf(d / math.sqrt(2)), 2000
    found = [
        detection(rng.normal(d, 1, 60), rng.normal(0, 1, 90)) for _ in range(count)
    ]
    covered = np.mean([f.low <= truth <= f.high for f in found])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / count))
    assert all(0 < f.low < f.auroc < f.high <= 1 for f in found)
    assert np.mean([f.auroc for f in found]) == pytest.approx(
        truth, abs=4 * np.std([f.auroc for f in found]) / 44
    )


def test_samples_that_do_not_overlap():
    """Were the area `a`, 20 independent pairs would all be in order with probability `a^20`."""
    found = detection(np.arange(20) + 100.0, np.arange(50.0))
    assert found == Detection(1.0, 0.0, pytest.approx(0.025 ** (1 / 20)), 1.0, 0.0)
    reversed_ = detection(np.arange(50.0), np.arange(20) + 100.0)
    assert reversed_ == Detection(
        0.0, 0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 20)), 1.0
    )


def test_scores_without_a_value():
    assert all(math.isnan(v) for v in detection([1.0, math.nan], [0.0, 2.0]))
    assert detection([0.0, 1.0, 2.0], [-math.inf, 1.5]).auroc == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("s", "t"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], []), (np.ones((3, 2)), [1.0, 2.0])]
)
def test_too_few_scores(s, t):
    with pytest.raises(
        InputError, match="two data or more on each side, one score for each"
    ):
        detection(s, t)


# --- the four scores


FEW = {"num_particles": 200, "elbo_particles": 2000, "batch_size": 25}
STILL = {**FEW, "steps": 1, "rate": 1e-9}  # q* = q, for guides that are the posterior


def kl_to_posterior(truth, x):
    q = truth.vae.encode(x)
    posterior = MultivariateNormal(
        (x - truth.b) @ truth.gain.T, truth.posterior_covariance
    )
    return kl_divergence(MultivariateNormal(q.mean, q.covariance_matrix), posterior)


def test_scores_of_an_exact_guide_are_the_closed_forms():
    truth = PPCA(2, 5)
    x, train = 2 * truth.sample(60), truth.sample(80, seed=1)
    scores = anomaly_scores(truth.vae, x, train, **STILL)
    density, typical = truth.marginal.log_prob(x), truth.marginal.log_prob(train).mean()
    torch.testing.assert_close(scores.log_marginal, density)
    torch.testing.assert_close(scores.elbo, density)
    assert scores.typical == pytest.approx(typical.item())
    torch.testing.assert_close(scores.typicality, (density - typical).abs())
    torch.testing.assert_close(
        scores.regret, torch.zeros(60).double(), atol=1e-9, rtol=0
    )


def test_regret_is_what_the_guide_lacks():
    """`L[q*] - L[q] = KL(q || p(z|x)) - KL(q* || p(z|x))`, and q* is the posterior."""
    truth = PPCA(2, 5, widen=2.0, shift=0.7)
    x = torch.cat([truth.sample(30), 3 * truth.sample(30, seed=1)])
    scores = anomaly_scores(truth.vae, x, 0.0, steps=200, **FEW)
    error = scores.regret - kl_to_posterior(truth, x)
    spread = scores.gaps.amortisation_errors
    assert (error.abs() < 4.5 * spread + 1e-3).all()
    assert abs(error.mean()) < 4 * spread.square().sum().sqrt() / len(x) + 1e-3
    assert (
        error.square().mean().sqrt() > 0.5 * spread.mean()
    )  # the errors are not too wide to tell


def test_a_little_regret_is_not_negative():
    """A guide 10 % too wide lacks `D (1.1^2 - 1 - 2 log 1.1) / 2` nats for every datum."""
    truth = PPCA(2, 5, widen=1.1)
    scores = anomaly_scores(truth.vae, truth.sample(100), 0.0, **FEW)
    errors = scores.gaps.amortisation_errors
    assert (scores.regret >= -4.5 * errors).all()
    found = (
        scores.gaps.improved
    )  # by draws of their own, so that the choice does not bias these
    expected, noise = (
        1.1**2 - 1 - 2 * math.log(1.1),
        errors[found].square().sum().sqrt().item() / int(found.sum()),
    )
    assert found.sum() > 50
    assert scores.regret[found].mean().item() == pytest.approx(
        expected, abs=4 * noise + 1e-3
    )


def test_the_typical_value_may_be_known():
    truth = PPCA(2, 5)
    x = truth.sample(20)
    known = anomaly_scores(truth.vae, x, -3, **STILL)
    assert known.typical == -3.0
    torch.testing.assert_close(known.typicality, (truth.marginal.log_prob(x) + 3).abs())
    assert list(known.per_datum) == ["log p(x)", "ELBO", "regret", "typicality"]


def separation(truth, inside, outside):
    first = anomaly_scores(truth.vae, inside, truth.sample(300, seed=9), **STILL)
    return Separation(
        ("own", "other"),
        first,
        anomaly_scores(truth.vae, outside, first.typical, **STILL),
    )


def test_data_near_the_mode_are_more_probable_and_not_typical():
    """In 30 dimensions a point near the mode is far more probable than a draw: the failure in closed form."""
    truth = PPCA(3, 30)
    inside, outside = (
        truth.sample(100, seed=1),
        truth.b + 0.1 * (truth.sample(100, seed=2) - truth.b),
    )
    found = separation(truth, inside, outside)
    density = [truth.marginal.log_prob(x).numpy() for x in (inside, outside)]
    assert found.detections["log p(x)"].auroc == pytest.approx(
        roc_auc_score(*labelled(*density))
    )
    assert found.detections["log p(x)"].high < 0.5
    assert found.detections["typicality"].low > 0.9
    mentions(
        found.failure,
        "higher log p(x) to other than to its own own data",
        "alone",
        "Nalisnick et al. 2019",
    )
    assert found.failure in str(found)
    assert found.answer().to_dict()["verdict"] == found.failure


def test_data_far_away_are_found_and_no_failure_is_told():
    truth = PPCA(2, 5)
    found = separation(
        truth,
        truth.sample(100, seed=1),
        truth.b + 8 * (truth.sample(100, seed=2) - truth.b),
    )
    assert all(
        found.detections[name].low > 0.5 for name in ("log p(x)", "ELBO", "typicality")
    )
    assert found.failure is None
    assert found.doubt is None
    numbers = found.answer().to_dict()["typicality"]
    assert numbers["mean_outside"] == pytest.approx(
        found.outside.typicality.mean().item()
    )
    assert not numbers["higher_inside"]


def test_data_of_one_kind_are_not_told_apart():
    truth = PPCA(2, 5)
    found = separation(truth, truth.sample(100, seed=1), truth.sample(100, seed=2))
    for name in ("log p(x)", "typicality"):
        assert found.detections[name].low < 0.5 < found.detections[name].high
    own = found.detections["log p(x)"]
    mentions(
        found.failure,
        f"its AUROC is {own.auroc:.2f}",
        f"{100 * own.fpr:.0f} % of those outside pass too",
        "no other score does better",
    )
    assert found.failure in str(found)


def test_doubtful_weights_are_told():
    truth = PPCA(2, 5, widen=0.1)
    x = truth.sample(30)
    scores = AnomalyScores(anomaly_scores(truth.vae, x, 0.0, **STILL).gaps, 0.0)
    told = Separation(("own", "other"), scores, scores).doubt
    count = int(scores.gaps.log_marginal.doubtful.sum())
    assert count > 10
    mentions(told, f"{count} of 30 own data and {count} of 30 other data", "too low")


# --- evaluate --ood


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


CHEAP = ("--limit", 60, "--num-particles", 50, "--refine", 5)


def noise(path, maximum=16, shape=(8, 8), n=400):
    np.save(
        path,
        np.random.default_rng(0).integers(0, maximum + 1, (n, *shape)).astype(np.uint8),
    )


def test_noise_and_the_run_itself(call, run):
    noise("noise.npy")
    said = call(
        "evaluate", run, *CHEAP, "--ood", "noise.npy", "--ood", "digits", "--report"
    )
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        "inside: 60 of digits test; outside: 60 of noise",
        "95 % interval",
        "figures/evaluation-test-limit60-k50-refine5-ood-",
        "ood-noise.png",
    )
    s = json.loads(newest(run).read_text())
    assert set(s["ood"]) - {"question", "title"} == {"noise.npy", "digits"}
    for name in ("log p(x)", "ELBO"):
        assert s["ood"]["noise.npy"][name]["low"] > 0.9
        assert s["ood"]["noise.npy"][name]["fpr"] < 0.3
        assert s["ood"]["digits"][name]["low"] < 0.5 < s["ood"]["digits"][name]["high"]
    mean = s["ood"]["digits"][
        "ELBO"
    ]  # the same data and bits inside and outside: only the draws differ
    assert mean["mean_inside"] == pytest.approx(mean["mean_outside"], abs=0.3)
    mentions(
        s["ood"]["digits"]["verdict"], "hardly tells digits from digits", "AUROC is 0."
    )
    mentions(
        said.out, "noise.npy: 60 of its 400 rows", "digits: 60 of its 359 test data"
    )
    assert s["ood"]["noise.npy"]["verdict"] is None
    with Image.open(newest(run, "figures/*/ood-noise.png")) as image:
        assert min(image.size) > 400
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    mentions(newest(run, "report*.html").read_text(), "The four scores", "AUROC", "FPR")


def test_other_data_pass_the_bridge_of_the_run(run):
    """Grey values of 16 are bits of 1, those of 8 bits of 1 half of the time; bits stay as they are."""
    np.save(
        "grey.npy",
        np.tile(np.array([0, 8, 16, 16], np.uint8), (1000, 16)).reshape(1000, 8, 8),
    )
    np.save(
        "bits.npy", np.tile(np.array([0, 1], np.uint8), (100, 32)).reshape(100, 8, 8)
    )
    opened = open_run(str(run), checkpoint="best", device="cpu", data_dir=None)
    found = {name: opened.outside(name) for name in ("grey.npy", "bits.npy")}
    grey, bits = found["grey.npy"][:], found["bits.npy"][:]
    assert grey.shape == (1000, 8, 8)  # all rows of a file
    means = grey.reshape(-1, 4).mean(0)
    torch.testing.assert_close(
        means, torch.tensor([0, 0.5, 1, 1]), atol=0.04, rtol=0
    )  # 16,000 bits
    assert torch.equal(grey, found["grey.npy"][:])
    assert torch.equal(bits.reshape(-1, 2).mean(0), torch.tensor([0.0, 1.0]))


def test_real_numbers_against_real_numbers(call, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(200, 3)))
    np.save("far.npy", rng.normal(size=(200, 3)) + 8)
    np.save("unit.npy", rng.uniform(size=(200, 3)))
    made = train(
        "run",
        "--dataset",
        "x.npy",
        "--likelihood",
        "gaussian",
        "--epochs",
        2,
        "--latent-dim",
        2,
        "--network",
        "mlp(hidden=(8,))",
    )
    assert (
        call("evaluate", made, *CHEAP, "--ood", "far.npy", "--ood", "unit.npy").code
        == 0
    )
    s = json.loads(newest(made).read_text())
    assert s["ood"]["far.npy"]["log p(x)"]["auroc"] > 0.99
    assert s["ood"]["unit.npy"]["log p(x)"]["auroc"] < 0.7  # near the mode


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ood", "none.npy"], ["none.npy does not exist"]),
        (["--ood", "digitz"], ["--ood digitz is neither", "did you mean digits?"]),
        (
            ["--ood", "big.npy"],
            ["--ood big.npy has data of shape (28, 28)", "trained on (8, 8)"],
        ),
        (
            ["--ood", "bright.npy"],
            ["--ood bright.npy holds values up to 2", "those of the run end at 16"],
        ),
        (
            ["--ood", "real.npy"],
            ["--ood real.npy holds reals", "trained on digits", "grey levels"],
        ),
        (
            ["--ood", "unit.npy"],
            [
                "--ood unit.npy holds reals in [0, 1]",
                "trained on digits",
                "grey levels",
            ],
        ),
        (["--ood", "few.npy"], ["--ood few.npy holds one datum"]),
        (
            ["--ood", "own/a.npy", "--ood", "a.npy"],
            ["own/a.npy", "--ood a.npy", "ood-a.png", "rename"],
        ),
        (["--ood", "a.npy", "--ood", "a.npy"], ["ood-a.png"]),
        (["--ood", "a.npy", "--limit", 1], ["two data or more", "--limit"]),
        (["--ood"], ["--ood", "one argument"]),
    ],
)
def test_data_that_cannot_be_scored(refused, run, options, words):
    Path("own").mkdir()
    noise("a.npy")
    noise("own/a.npy")
    noise("big.npy", shape=(28, 28))
    noise("bright.npy", maximum=255)
    noise("few.npy", n=1)
    np.save("real.npy", np.random.default_rng(0).normal(size=(50, 8, 8)))
    np.save("unit.npy", np.random.default_rng(0).uniform(size=(50, 8, 8)))
    mentions(refused("evaluate", run, *options), *words)


def test_bits_are_no_grey_levels(refused, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise("bits.npy", maximum=1)
    made = train(
        "run",
        "--likelihood",
        "gaussian",
        "--epochs",
        1,
        "--latent-dim",
        2,
        "--network",
        "mlp(hidden=(8,))",
    )
    mentions(
        refused("evaluate", made, "--ood", "bits.npy"),
        "bits.npy holds bits",
        "trained on digits",
        "grey levels",
    )


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(
    "PYRO_VAE_DATA" not in os.environ,
    reason="set PYRO_VAE_DATA to the folder of the data sets",
)
def test_fashion_gives_mnist_a_higher_density(call, train):
    """The known failure (Nalisnick et al. 2019, Xiao et al. 2020), and the regret, which has it less."""
    made = train(
        "run",
        "--dataset",
        "fashion-mnist",
        "--likelihood",
        "discretizedlogistic",
        "--epochs",
        2,
    )
    said = call(
        "evaluate",
        made,
        "--limit",
        200,
        "--num-particles",
        200,
        "--refine",
        30,
        "--ood",
        "mnist",
    )
    assert said.code == 0
    mentions(
        said.out,
        "higher log p(x) to mnist than to its own fashion-mnist test data",
        "Nalisnick",
    )
    found = json.loads(newest(made).read_text())["ood"]["mnist"]
    assert found["log p(x)"]["high"] < 0.35
    assert found["regret"]["low"] > 0.9
