"""`pyro_vae.sklearn.VAE`: what scikit-learn asks of an estimator, and what a VAE adds to it."""

import math
import pickle
import random

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_vae
from pyro_vae import FullRank, InputError, MeanField, TrainingWarning, log_marginal
from pyro_vae.inference.held import ELBO as BOUND
from pyro_vae.inference.held import judge
from pyro_vae.models.conditionals import SemiAmortized
from pyro_vae.sklearn import VAE

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{TrainingWarning.__module__}.{TrainingWarning.__qualname__}"
)

IRIS = load_iris().data
QUICK = {
    "network": "mlp(hidden=(8,))",
    "latent_dim": 2,
    "epochs": 3,
    "num_particles": 20,
    "compile": False,
    "device": "cpu",
    "random_state": 0,
}


def quick(**others):
    return VAE(**{**QUICK, **others})


@parametrize_with_checks([quick(epochs=2, num_particles=10)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# --- numbers with a truth from elsewhere -----------------------------------------------------------------------------


def linear(x, **others):
    arguments = {"guide": "exact", "network": "mlp(hidden=())", "epochs": 200}
    return quick(**{**arguments, **others}).fit(x)


def read_off(vae):
    """b, W and s of the linear decoder `N(W z + b, diag(s^2))`, from what it makes of the unit vectors."""
    b, *columns = vae.inverse_transform(np.concatenate([np.zeros((1, 2)), np.eye(2)]))
    scale = vae.vae_.decode(torch.zeros(1, 2)).stddev[0].detach().double().numpy()
    return b, np.stack(columns, 1) - b[:, None], scale


def marginal_of(vae):
    """`N(b, W W^T + diag(s^2))`."""
    b, w, scale = read_off(vae)
    return multivariate_normal(b, w @ w.T + np.diag(scale**2))


def test_scores_of_a_linear_decoder_are_those_of_its_gaussian():
    exact = linear(IRIS)
    truth = marginal_of(exact).logpdf(IRIS)
    np.testing.assert_allclose(exact.score_samples(IRIS), truth, atol=1e-3)
    weighed = linear(IRIS, guide="fullrank", num_particles=2000, epochs=400)
    truth = marginal_of(weighed).logpdf(IRIS)
    np.testing.assert_allclose(weighed.score_samples(IRIS), truth, atol=0.1)
    assert abs(weighed.score(IRIS) - truth.mean()) < 0.005


def test_codes_of_a_linear_decoder_are_its_posterior_means():
    vae = linear(IRIS)
    b, w, scale = read_off(vae)
    precision = np.eye(2) + (w.T / scale**2) @ w
    means = np.linalg.solve(precision, (w.T / scale**2) @ (IRIS - b).T).T
    np.testing.assert_allclose(vae.transform(IRIS), means, atol=1e-4)


def test_scores_are_counted_in_the_units_of_the_data():
    """A million times as wide, every density is a million times as low: the float32 of the pair does not show."""
    x = np.random.RandomState(0).normal(size=(200, 3))
    unit, offset = 1e6, 3e9
    near, far = linear(x), linear(unit * x + offset)
    shift = near.score_samples(x) - far.score_samples(unit * x + offset)
    np.testing.assert_allclose(shift, 3 * math.log(unit), atol=0.05)
    np.testing.assert_allclose(far.sample(2000).mean(0), offset, rtol=1e-3)


def test_draws_have_the_mean_and_covariance_of_the_model():
    vae = linear(IRIS)
    drawn, truth = vae.sample(20_000), marginal_of(vae)
    np.testing.assert_allclose(drawn.mean(0), truth.mean, atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), truth.cov, atol=0.15)


@pytest.mark.slow
def test_defaults_beat_principal_components_on_flowers():
    folds = KFold(3, shuffle=True, random_state=0)
    ours = cross_val_score(VAE(latent_dim=2, random_state=0), IRIS, cv=folds)
    assert ours.mean() > cross_val_score(PCA(2), IRIS, cv=folds).mean()


# --- one datum by itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["meanfield", "iaf(transforms=1)", SemiAmortized])
def test_a_row_does_not_depend_on_the_others(guide):
    vae = quick(guide=guide).fit(IRIS)
    some = [7, 3, 100]
    for method in (vae.transform, vae.score_samples, vae.decision_function):
        np.testing.assert_allclose(method(IRIS)[some], method(IRIS[some]), rtol=1e-9)


def test_log_marginal_by_seed_is_that_of_each_datum_and_leaves_the_streams_alone():
    vae = quick().fit(IRIS)
    pair, x = (vae.vae_.model, vae.vae_.guide), vae.see(IRIS[:6])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    all_six = log_marginal(*pair, x, num_particles=50, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    alone = log_marginal(*pair, x[4:5], num_particles=50, seed=3)
    assert torch.equal(all_six.values[4:5], alone.values)
    other = log_marginal(*pair, x[4:5], num_particles=50, seed=4)
    assert not torch.equal(alone.values, other.values)
    plain = log_marginal(*pair, x, num_particles=2000)
    by_seed = log_marginal(*pair, x, num_particles=2000, seed=0)
    errors = (plain.standard_errors**2 + by_seed.standard_errors**2).sqrt()
    assert ((plain.values - by_seed.values).abs() < 6 * errors + 1e-3).all()
    with pytest.raises(InputError, match="seed=-1"):
        log_marginal(*pair, x, seed=-1)


# --- the kinds of data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "likelihood", "holds"),
    [
        (IRIS, "Gaussian(scale='element')", lambda v: np.isfinite(v).all()),
        ((IRIS > 2).astype(int), "Bernoulli()", lambda v: np.isin(v, (0, 1)).all()),
        (
            np.random.RandomState(0).poisson(30, (99, 3)),
            "NegativeBinomial()",
            lambda v: (v == v.round()).all(),
        ),
        (
            load_digits().data[:200] / 16,
            "DiscretizedLogistic(levels=17)",
            lambda v: np.isin(v * 16, range(17)).all(),
        ),
    ],
)
def test_the_likelihood_is_chosen_by_what_values_are(x, likelihood, holds):
    vae = quick().fit(x)
    assert vae.likelihood_ == likelihood
    drawn = vae.sample(7)
    assert drawn.shape == (7, x.shape[1])
    assert holds(drawn)
    mean = vae.inverse_transform(vae.transform(x[:5]))
    assert mean.shape == x[:5].shape
    assert x.min() - 5 <= mean.min() <= mean.max() <= x.max() + 50


def test_columns_of_several_kinds_in_one_array_get_a_likelihood_each():
    generator = np.random.RandomState(0)
    x = np.stack([generator.normal(size=150), generator.rand(150) > 0.4], 1)
    vae = quick().fit(x)
    assert "'x1': Bernoulli()" in vae.likelihood_
    assert set(vae.sample(50)[:, 1]) <= {0, 1}
    assert isinstance(vae.sample(2), np.ndarray)
    assert "Laplace" in quick(likelihood="columns, x0=laplace").fit(x).likelihood_


def test_a_table_of_rounded_numbers_trains_in_double_precision():
    """One step for all columns is one number, which stands for the least scale of each."""
    vae = quick(precision="float64").fit(IRIS)
    assert vae.vae_.model.likelihood.floor.tolist() == pytest.approx([0.05] * 4)
    assert vae.see(IRIS).dtype is torch.float64


def test_values_beyond_those_of_fit_are_data_too():
    """As a test set that was scaled by the extremes of the training set holds values beyond 0 and 1."""
    scaled = MinMaxScaler().fit(IRIS[:100]).transform(IRIS)
    assert scaled.max() > 1
    assert np.isfinite(quick().fit(scaled[:100]).score(scaled[100:]))


def test_rows_are_folded_into_images():
    x = (load_digits().data[:120] > 8).astype(float)
    network = "convnet(channels=(4, 8))"
    vae = quick(shape=(1, 8, 8), network=network, likelihood="bernoulli").fit(x)
    assert vae.vae_.model.likelihood.shape == (1, 8, 8)
    assert vae.sample(3).shape == (3, 64)
    assert vae.inverse_transform(vae.transform(x[:2])).shape == (2, 64)


def test_sparse_counts_are_as_dense_ones():
    from scipy.sparse import csr_matrix

    x = np.random.RandomState(0).poisson(0.5, (120, 6)) * 3
    dense, sparse = quick().fit(x), quick().fit(csr_matrix(x))
    assert dense.likelihood_ == sparse.likelihood_ == "NegativeBinomial()"
    np.testing.assert_array_equal(dense.score_samples(x), sparse.score_samples(x))
    np.testing.assert_array_equal(dense.transform(x), sparse.transform(csr_matrix(x)))


# --- tables ----------------------------------------------------------------------------------------------------------


def people(n=120):
    generator = np.random.RandomState(0)
    sex = generator.choice(["f", "m"], n)
    table = pd.DataFrame(
        {
            "sex": sex,
            "city": pd.Categorical(generator.choice(["a", "b", "c"], n)),
            "visits": generator.negative_binomial(2, 0.1, n),
            "height": generator.normal(165, 7, n) + 10 * (sex == "m"),
        }
    )
    table.loc[3, "city"] = None
    table.loc[5, "height"] = np.nan
    return table


def test_a_table_of_mixed_kinds_in_and_out():
    table = people()
    vae = quick().fit(table)
    for kind in ("Bernoulli", "Categorical(levels=3)", "NegativeBinomial", "Gaussian"):
        assert kind in vae.likelihood_
    assert list(vae.feature_names_in_) == list(table.columns)
    assert vae.n_features_in_ == 4
    assert np.isfinite(vae.score_samples(table)).all()
    for made in (vae.sample(9), vae.inverse_transform(vae.transform(table[:9]))):
        assert list(made.columns) == list(table.columns)
        assert set(made["sex"]) <= {"f", "m"}
        assert set(made["city"]) <= {"a", "b", "c"}
    assert (vae.sample(9)["visits"] >= 0).all()


def test_a_missing_value_is_left_out_of_the_density():
    """log p of what was seen: a row that lacks a cell is the mass of all rows that have some value there."""
    vae = quick(num_particles=2000, epochs=100).fit(people())
    row = people()[["sex", "city", "visits", "height"]].iloc[[0]]
    cities = [row.assign(city=city) for city in "abc"]
    total = np.logaddexp.reduce([vae.score(row) for row in cities])
    assert vae.score(row.assign(city=None)) == pytest.approx(total, abs=0.05)


def test_frames_of_codes_and_of_numbers():
    frame = load_iris(as_frame=True).data
    vae = quick().fit(frame)
    codes = vae.set_output(transform="pandas").transform(frame)
    assert list(codes.columns) == list(vae.get_feature_names_out()) == ["vae0", "vae1"]
    assert list(vae.sample(3).columns) == list(frame.columns)
    assert list(vae.inverse_transform(codes).columns) == list(frame.columns)
    plain = quick().fit(IRIS)
    np.testing.assert_array_equal(plain.score_samples(IRIS), vae.score_samples(frame))


def test_missing_values_that_fit_has_not_seen():
    holed = np.where(np.arange(IRIS.size).reshape(IRIS.shape) % 7 == 0, np.nan, IRIS)
    with pytest.raises(InputError, match="fit with missing=True"):
        quick().fit(IRIS).score(holed)
    assert np.isfinite(quick(missing=True).fit(IRIS).score(holed))
    assert np.isfinite(quick().fit(holed).transform(IRIS)).all()
    with pytest.raises(ValueError, match="NaN"):
        quick(missing=False).fit(holed)


# --- outliers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contamination", [0.02, 0.2])
def test_the_share_of_outliers_is_the_contamination(contamination):
    vae = quick(contamination=contamination)
    labels = vae.fit_predict(IRIS)
    assert (labels == -1).mean() == pytest.approx(contamination)
    np.testing.assert_array_equal(labels == 1, vae.decision_function(IRIS) >= 0)


def test_the_usual_threshold_is_that_of_held_out_data():
    x = np.random.RandomState(0).normal(size=(2000, 2))
    vae = quick(epochs=10).fit(x[:1000])
    share = (vae.predict(x[1000:]) == -1).mean()
    assert 0.01 < share < 0.12  # Beta(95, 6) of 100 held-out data, and the choice
    assert vae.predict([[9.0, -9.0]]) == [-1]


# --- seeds -----------------------------------------------------------------------------------------------------------


def streams():
    """The states of all streams of random numbers."""
    numpy = np.random.get_state()  # noqa: NPY002  # the one that must not move
    return torch.get_rng_state().tolist(), numpy[1].tolist(), random.getstate()


def test_a_seed_makes_all_numbers_the_same_and_moves_no_stream():
    states = streams()
    one, other = quick().fit(IRIS), quick().fit(IRIS)
    np.testing.assert_array_equal(one.transform(IRIS), other.transform(IRIS))
    np.testing.assert_array_equal(one.score_samples(IRIS), other.score_samples(IRIS))
    np.testing.assert_array_equal(one.sample(5), other.sample(5))
    assert states == streams()
    assert (one.sample(5, random_state=1) != one.sample(5, random_state=2)).any()
    third = quick(random_state=1).fit(IRIS)
    assert (third.transform(IRIS) != one.transform(IRIS)).any()
    free, freer = (quick(random_state=None).fit(IRIS) for _ in range(2))
    assert (free.transform(IRIS) != freer.transform(IRIS)).any()


def test_fit_is_silent_unless_asked(capsys):
    quick().fit(IRIS)
    assert capsys.readouterr() == ("", "")
    quick(verbose=True).fit(IRIS)
    told = capsys.readouterr().out
    assert "Gaussian(scale='element')" in told
    assert told.count("epoch ") == 3


def test_the_weights_are_those_of_the_best_epoch():
    vae = quick(epochs=40, learning_rate=0.3, schedule="constant").fit(IRIS)
    bounds = [epoch.validation_elbo for epoch in vae.history_]
    assert np.argmax(bounds) < len(bounds) - 1
    data = vae.see(IRIS)
    held_out = np.sort(np.random.RandomState(0).permutation(len(IRIS))[:15])
    torch.manual_seed(0)  # as after each epoch
    found = judge(*pair_of(vae), data[held_out], None)[BOUND].mean().item()
    assert found == pytest.approx(max(bounds), abs=1e-3)
    assert abs(found - bounds[-1]) > 0.01


def pair_of(vae):
    return vae.vae_.model, vae.vae_.guide


def test_patience_ends_a_training():
    vae = quick(epochs=500, learning_rate=0.3, schedule="constant", patience=3)
    assert vae.fit(IRIS).n_iter_ < 500
    assert vae.n_iter_ == len(vae.history_)


# --- among other estimators ------------------------------------------------------------------------------------------


def test_codes_feed_a_classifier():
    y = load_iris().target
    pipe = make_pipeline(StandardScaler(), quick(epochs=150), LogisticRegression()).fit(
        IRIS, y
    )
    assert pipe.score(IRIS, y) > 0.75


def test_a_search_over_latents_and_guides():
    grid = {"latent_dim": [1, 2], "guide": ["meanfield", FullRank]}
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(IRIS)
    assert search.cv_results_["mean_test_score"].shape == (4,)
    best = search.best_estimator_
    assert best.transform(IRIS).shape == (150, search.best_params_["latent_dim"])
    assert search.score(IRIS) == best.score(IRIS)


@pytest.mark.slow
def test_a_search_in_two_processes_finds_the_same():
    alone, beside = (
        GridSearchCV(quick(), {"latent_dim": [1, 2]}, cv=2, n_jobs=n).fit(IRIS)
        for n in (1, 2)
    )
    key = "mean_test_score"
    np.testing.assert_allclose(alone.cv_results_[key], beside.cv_results_[key])


def test_a_clone_has_the_parameters_and_nothing_else():
    vae = quick(guide=FullRank, random_state=3).fit(IRIS)
    copy = clone(vae)
    assert copy.get_params() == vae.get_params()
    assert not hasattr(copy, "vae_")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["iris", "people"])
def test_what_is_read_back_gives_the_same_bits(tmp_path, data):
    x = IRIS if data == "iris" else people()
    vae = quick(guide="iaf(transforms=1)", contamination=0.1).fit(x)
    vae.save(tmp_path / "vae.safetensors")
    joblib.dump(vae, tmp_path / "vae.joblib")
    back = (
        VAE.load(tmp_path / "vae.safetensors"),
        pickle.loads(pickle.dumps(vae)),
        joblib.load(tmp_path / "vae.joblib"),
    )
    for other in back:
        assert other.get_params() == vae.get_params()
        assert repr(other.history_) == repr(vae.history_)
        for name in ("likelihood_", "seed_", "offset_", "n_iter_", "notes_"):
            assert getattr(other, name) == getattr(vae, name)
        for method in ("transform", "score_samples", "predict"):
            ours, theirs = (getattr(v, method)(x[:30]) for v in (vae, other))
            np.testing.assert_array_equal(ours, theirs)
        drawn = pd.DataFrame(vae.sample(4))
        pd.testing.assert_frame_equal(drawn, pd.DataFrame(other.sample(4)))
        np.testing.assert_array_equal(
            other.get_feature_names_out(), vae.get_feature_names_out()
        )
    assert isinstance(pyro_vae.load(tmp_path / "vae.safetensors"), pyro_vae.VAE)


class Own(MeanField):
    """A guide of somebody's own."""


def test_a_class_of_ones_own_is_read_back_where_it_is_trusted(tmp_path):
    vae = quick(guide=Own).fit(IRIS)
    assert isinstance(vae.vae_.guide, Own)
    vae.save(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="trust=True"):
        VAE.load(tmp_path / "own.safetensors")
    again = VAE.load(tmp_path / "own.safetensors", trust=True)
    np.testing.assert_array_equal(again.transform(IRIS), vae.transform(IRIS))
    assert again.guide == f"{__name__}:Own"


def test_files_that_hold_no_estimator(tmp_path):
    vae = quick().fit(IRIS)
    pyro_vae.save(vae.vae_, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="no estimator"):
        VAE.load(tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="no checkpoint"):
        VAE.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        vae.save(tmp_path / "vae.pkl")
    with pytest.raises(InputError, match="does not exist"):
        vae.save(tmp_path / "nowhere" / "vae.safetensors")


# --- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"latent_dim": 0}, "latent_dim=0 of VAE must be"),
        ({"epochs": 0}, "epochs=0 of VAE must be"),
        ({"batch_size": 1.5}, "batch_size=1.5 of VAE must be"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 of VAE must be"),
        ({"contamination": 0.7}, "contamination=0.7 must be"),
        ({"contamination": "some"}, "contamination='some' of VAE must be"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0 of VAE must be"),
        ({"guide": "nope"}, "^guide=nope is unknown"),
        ({"guide": 3}, "guide=3 of VAE must be a text"),
        ({"prior": FullRank}, "a subclass of Prior"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"objective": "iwae(k=3)"}, "^objective=iwae has no argument k"),
        ({"likelihood": "bernoulli"}, "and likelihood=bernoulli takes bits"),
        ({"likelihood": "columns, petal=laplace"}, "no column 'petal'"),
        ({"structure": "labelled(classes=3)"}, "y is not used"),
        ({"shape": (2, 3)}, r"shape=\(2, 3\) is of 6 numbers"),
        ({"device": "abacus"}, "^device=abacus is unknown"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        quick(**arguments).fit(IRIS)
    assert "--" not in str(caught.value)


def test_columns_that_hold_one_value_alone():
    with pytest.raises(InputError, match=r"'x1'.*as VarianceThreshold"):
        quick().fit(np.stack([IRIS[:, 0], np.full(150, 0.5)], 1))


def test_data_that_do_not_fit():
    vae, table = quick().fit(people()), people()
    with pytest.raises(InputError, match="'zz' in data row 110"):
        vae.score(
            table.assign(
                city=table["city"].astype(object).where(table.index != 110, "zz")
            )
        )
    with pytest.raises(InputError, match="likelihood=gaussian is one for all"):
        quick(likelihood="gaussian").fit(table)
    with pytest.raises(InputError, match="X has 3 columns, and codes have 2"):
        vae.inverse_transform(np.zeros((1, 3)))
    with pytest.raises(InputError, match="n_samples=0"):
        vae.sample(0)
    bits = quick().fit((IRIS > 2).astype(int))
    with pytest.raises(InputError, match=r"datum 1 \(counted from 0\)"):
        bits.score([[0, 1, 0, 1], [0, 2, 0, 1]])


def test_a_point_guide_has_codes_but_no_scores():
    vae = quick(guide="delta").fit(IRIS)
    assert vae.transform(IRIS).shape == (150, 2)
    with pytest.raises(InputError, match="the guide is a point"):
        vae.predict(IRIS)
