"""Tables of columns of mixed kinds: each has a likelihood of its own, and log p(x|z) is their sum."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.stats
import torch

from ppca import PPCA
from pyro_vae import (
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    Table,
    build,
    by_column,
    elbo,
    fit,
    load,
    load_data,
    log_marginal,
    open_run,
    save,
)
from pyro_vae.data.schema import Held, Schema, cells_of
from pyro_vae.models.likelihoods import (
    Categorical,
    Columns,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from pyro_vae.networks import MLP
from pyro_vae.networks.views import Seen, View
from pyro_vae.plots import table_marginals, table_pairs, table_reconstructions
from pyro_vae.spec import parse

MEMBERS = (
    "columns(columns={'visits': negativebinomial(), 'height': studentt(df=3), 'a, job': categorical(levels=4), "
    "'member': bernoulli(), 'income': lognormal(), 'grade': ordinal(levels=5)})"
)
KINDS = (NegativeBinomial, StudentT, Categorical, Bernoulli, LogNormal, Ordinal)


def table(n=400):
    """Columns that hang together by one latent."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    columns = [
        rng.poisson(np.exp(1 + 0.5 * z)),
        170 + 8 * z + rng.normal(size=n),
        np.digitize(z + 0.5 * rng.normal(size=n), [-1, 0, 1]),
        z + rng.normal(size=n) > 0,
        np.exp(7 + z + 0.3 * rng.normal(size=n)),
        np.digitize(z + 0.5 * rng.normal(size=n), [-1.5, -0.5, 0.5, 1.5]),
    ]
    return torch.from_numpy(np.stack(columns, 1).astype(float))


def test_a_member_is_spelled_with_the_members_of_its_columns():
    member = parse("likelihood", MEMBERS)
    assert str(parse("likelihood", str(member))) == str(member)
    likelihood = member((6,))
    assert [type(m) for m in likelihood.members] == list(KINDS)
    assert likelihood.names[2] == "a, job"
    assert likelihood.output_shape == (1 + 1 + 4 + 1 + 1 + 1,)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": Poisson}, "names 1 columns, and a datum has 2 elements"),
        ({"a": Poisson, "b": 3}, "gives 'b' the likelihood 3"),
        ({"a": Poisson, "b": Columns}, "gives 'b' the likelihood"),
        ([Poisson, Poisson], "must name columns"),
    ],
)
def test_columns_that_fit_no_table(columns, words):
    with pytest.raises(InputError, match=words):
        Columns((2,), columns=columns)


def test_log_p_is_the_sum_of_the_columns():
    """Of each member alone, with its own outputs of the decoder."""
    torch.manual_seed(0)
    likelihood = parse("likelihood", MEMBERS)((6,)).double()
    x = table(7)
    h = torch.randn(3, 7, *likelihood.output_shape).double()
    p = likelihood(h)
    assert (p.batch_shape, p.event_shape) == ((3, 7), (6,))
    start, each = 0, []
    for j, member in enumerate(likelihood.members):
        stop = start + member.output_shape[0]
        each.append(member(h[..., start:stop, None]).log_prob(x[:, [j]]))
        start = stop
    torch.testing.assert_close(p.log_probs(x), torch.stack(each, -1))
    torch.testing.assert_close(p.log_prob(x), sum(each))
    assert p.expand((2, 3, 7)).log_prob(x).shape == (2, 3, 7)
    drawn = p.expand((2, 3, 7)).sample()
    assert drawn.shape == (2, 3, 7, 6)
    likelihood.check(drawn.flatten(0, 2))


def independent(decoder_bias, members):
    """A VAE whose x does not depend on z, with the posterior that it has: the prior."""
    likelihood = Columns((len(members),), columns=members)
    decoder = MLP((2,), likelihood.output_shape, hidden=())
    with torch.no_grad():
        decoder.output_layer.weight.zero_()
        decoder.output_layer.bias.copy_(torch.tensor(decoder_bias))
    encoder = MLP(likelihood.seen_shape, hidden=(4,))
    guide = MeanField(encoder, 2)
    with torch.no_grad():
        guide.head.weight.zero_()
        guide.head.bias.zero_()
    return VAE(StandardNormal(2), decoder, likelihood, guide).double()


def test_a_table_of_independent_columns_has_a_closed_form():
    rng = np.random.default_rng(0)
    members = {"count": Poisson, "real": Gaussian, "bit": Bernoulli}
    members |= {"job": lambda shape: Categorical(shape, levels=3), "amount": LogNormal}
    vae = independent([1.2, 0.5, -0.7, 0.1, 0.9, -0.4, 0.3], members)
    x = np.stack(
        [
            rng.poisson(3, 50),
            rng.normal(size=50),
            rng.integers(0, 2, 50),
            rng.integers(0, 3, 50),
            rng.lognormal(size=50),
        ],
        1,
    )
    logits = torch.tensor([0.1, 0.9, -0.4]).double().log_softmax(0).numpy()
    scale = 1 + 1e-3  # the least scale, and a learned one that starts at 1
    exact = (
        scipy.stats.poisson.logpmf(x[:, 0], np.exp(1.2))
        + scipy.stats.norm.logpdf(x[:, 1], 0.5, scale)
        + scipy.stats.bernoulli.logpmf(x[:, 2], scipy.special.expit(-0.7))
        + logits[x[:, 3].astype(int)]
        + scipy.stats.lognorm.logpdf(x[:, 4], scale, scale=np.exp(0.3))
    )
    found = log_marginal(vae.model, vae.guide, torch.from_numpy(x), num_particles=10)
    np.testing.assert_allclose(found.values.numpy(), exact, rtol=1e-6)


def test_an_encoder_sees_each_kind_in_its_way():
    kinds = [Seen("number"), Seen("log"), Seen("log1p"), Seen("bit")]
    view = View([*kinds, Seen("category", 3), Seen("order", 4)], (6,))
    x = torch.tensor([[2.0, 1.0, 0.0, 1.0, 2.0, 2.0], [4.0, 1.0, 0.0, 0.0, 0.0, 3.0]])
    assert view.out_shape == (10,)
    seen = [[2, 0, 0, 1, 0, 0, 1, 1, 1, 0], [4, 0, 0, 0, 1, 0, 0, 1, 1, 1]]
    assert view(x).tolist() == seen
    assert view(x[None]).shape == (1, 2, 10)
    shift, spread, _ = view.units(x)
    assert shift.tolist() == [3, *[0] * 9]
    assert spread.tolist() == [1.0] * 10  # what never varies counts in 1


def test_training_starts_from_the_shares_and_moments_of_each_column():
    x = table(5000)
    vae = build(Spec((6,), 2, likelihood=MEMBERS)).double()
    vae.start(x)
    p = vae.decode(torch.zeros(2).double())
    torch.testing.assert_close(p.mean, x.mean(0), rtol=0.2, atol=0.02)
    assert vae.guide.encoder.shift.shape == (1 + 1 + 4 + 1 + 1 + 4,)
    torch.testing.assert_close(vae.guide.encoder.shift[0], x[:, 0].log1p().mean())


def test_an_encoder_of_another_width_is_refused():
    likelihood = parse("likelihood", MEMBERS)((6,))
    decoder = MLP((2,), likelihood.output_shape)
    with pytest.raises(InputError, match=r"given \(12,\), categories one-hot"):
        VAE(StandardNormal(2), decoder, likelihood, MeanField(MLP((6,)), 2))


def test_values_that_a_column_does_not_accept_are_told_by_its_name():
    vae = build(Spec((6,), 2, likelihood=MEMBERS))
    x = table(20)
    x[3, 2] = 4
    with pytest.raises(InputError, match="column a, job: data holds the level 4"):
        fit(vae, x, epochs=1)


def test_a_compiled_step_is_the_step():
    x = table(200)
    losses = []
    members = {"prior": "vampprior(pseudo_inputs=5)", "network": "mlp(hidden=(8,))"}
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = build(Spec((6,), 2, likelihood=MEMBERS, **members)).double()
        history = fit(vae, x, epochs=2, batch_size=50, compile=compiled)
        losses.append([h.loss for h in history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def test_weights_and_what_they_are_of_are_kept(tmp_path):
    torch.manual_seed(0)
    x = table(100)
    columns = {
        "a": NegativeBinomial,
        "b": StudentT,
        "c": parse("likelihood", "categorical(levels=4)"),
    }
    likelihood = Columns((3,), columns=columns)
    encoder, decoder = MLP(likelihood.seen_shape), MLP((2,), likelihood.output_shape)
    vae = VAE(StandardNormal(2), decoder, likelihood, MeanField(encoder, 2))
    fit(vae, x[:, :3], epochs=1)
    save(vae, tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors")
    results = []
    for each in (vae, again):
        torch.manual_seed(0)
        results.append(
            elbo(each.model, each.guide, x[:, :3].float(), num_particles=10).elbo
        )
    torch.testing.assert_close(results[0], results[1])


def people(n=300):
    """A table as it comes out of a database."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=n)
    jobs = np.array(["clerk", "nurse", "pilot", "teacher"])
    return pandas.DataFrame(
        {
            "visits": rng.negative_binomial(2, 0.2, n),
            "income": np.round(np.exp(10 + 0.8 * z + 0.3 * rng.normal(size=n)), 2),
            "height": np.round(170 + 8 * z + 2 * rng.normal(size=n), 1),
            "job": jobs[np.digitize(z + 0.7 * rng.normal(size=n), [-1, 0, 1])],
            "sex": np.where(rng.random(n) < 0.5, "f", "m"),
            "grade": 1
            + np.digitize(z + 0.5 * rng.normal(size=n), [-1.2, -0.4, 0.4, 1.2]),
            "member": rng.random(n) < 0.3,
        }
    )


KIND = {"visits": "count", "income": "positive", "height": "real", "job": "category"}
KIND |= {"sex": "bit", "grade": "ordinal", "member": "bit"}
TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([0, 1, 1, 0] * 30, "bit"),
        ([1, 2, 2, 1] * 30, "bit"),
        ([True, False] * 30, "bit"),
        ([1, 2, 3, 4, 5] * 30, "ordinal"),
        ([0.5, 1.0, 1.5] * 30, "ordinal"),
        ([-1, 0, 1] * 30, "ordinal"),
        (np.tile(np.random.default_rng(0).normal(size=40), 30), "ordinal"),
        (list(range(1950, 2020)), "ordinal"),  # varies less than counts do
        (np.random.default_rng(0).poisson(30, 200), "count"),
        (np.random.default_rng(0).negative_binomial(1, 0.1, 200), "count"),
        (np.random.default_rng(0).normal(size=200).round(3), "real"),
        (np.random.default_rng(0).lognormal(sigma=1.5, size=200), "positive"),
        (np.random.default_rng(0).normal(0, 1e3, 500).round(), "real"),
        (["a", "b"] * 30, "bit"),
        (["a", "b", "c"] * 30, "category"),
    ],
)
def test_what_a_column_is_taken_for(cells, kind):
    (column,) = Schema.of(pandas.DataFrame({"c": cells}), {}).columns
    assert column.kind == kind
    assert column.why
    back = column.cells(
        column.codes(cells_of(pandas.DataFrame({"c": cells}), "c"), "the table")
    )
    assert back.tolist() == list(cells)


def test_a_frame_comes_back_as_it_was():
    frame = people()
    table = Table(frame)
    assert {c.name: c.kind for c in table.schema.columns} == KIND
    again = table.frame(table.x, frame.index)
    pandas.testing.assert_frame_equal(again.astype(frame.dtypes), frame)
    assert Schema.from_dicts(table.schema.to_dicts()).names == table.schema.names
    assert torch.equal(table.see(frame[frame.columns[::-1]]), table.x)


def test_a_table_is_fitted_and_drawn_from_in_code():
    torch.manual_seed(0)
    table = Table(people(), "columns, height=laplace, grade=categorical")
    vae = build(
        Spec(table.shape, 2, likelihood=table.likelihood, network="mlp(hidden=(8,))")
    )
    fit(vae, table.x, epochs=2)
    drawn = table.frame(vae.sample(50))
    assert list(drawn.columns) == list(KIND)
    assert set(drawn["job"]) <= {"clerk", "nurse", "pilot", "teacher"}
    assert drawn["visits"].dtype.kind == "i"
    assert drawn["member"].dtype.kind == "b"
    assert set(drawn["grade"]) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        ("columns, hight=laplace", "has no column 'hight': did you mean 'height'"),
        ("columns, height=gausian", "did you mean gaussian"),
        ("height=laplace", "names no likelihood for the column 'visits'"),
        ("columns, height", "must be of the form column=likelihood"),
        ("columns, height=laplace, height=gaussian", "names the column 'height' twice"),
        ("columns, job=gaussian", "'job' .* holds texts such as 'clerk'"),
        ("columns, job=ordinal", "'job' .* order is not known"),
        (
            "columns, job=ordinal(levels=('nurse', 'clerk'))",
            "none of its categories: 'nurse'",
        ),
        ("columns, job=bernoulli", "holds 4 different values"),
        (
            "columns, job=categorical(levels=7)",
            "job=.*holds 4 different values; leave levels out",
        ),
        ("columns, grade=columns", "is no likelihood of one column"),
    ],
)
def test_a_table_that_cannot_be_read_so(refused, tmp_path, likelihood, words):
    people(60).to_csv(tmp_path / "people.csv", index=False)
    said = refused(
        "train", "--dataset", tmp_path / "people.csv", "--likelihood", likelihood, *TINY
    )
    assert re.search(words, said), said


@pytest.mark.parametrize(
    ("column", "cells", "words"),
    [
        ("job", lambda n: ["clerk"] * n, "holds 'clerk' in every row"),
        (
            "job",
            lambda n: [f"job {i}" for i in range(n)],
            "holds 60 different texts in 60 rows",
        ),
        (
            "job",
            lambda n: ["clerk", "", "pilot"] * (n // 3),
            "'job' .* has no value in data row 1",
        ),
        (
            "height",
            lambda n: [1.5, None] * (n // 2),
            "'height' .* has no value in data row 1",
        ),
        (
            "height",
            lambda n: [1.5, np.inf, *range(2, n)],
            "infinite value in data row 1 .counted from 0.; rows with such values: 1; fill them in, remove",
        ),
        (
            "height",
            lambda n: [*range(7), "abc", *range(8, n)],
            "'height' .* holds numbers, but 'abc' in data row 7 .*--missing keep.*height=categorical.*--drop height",
        ),
        (
            "grade",
            lambda n: [1, "x", *([1, 2] * (n // 2 - 1))],
            "'grade' .* holds numbers, but 'x' in data row 1 .*rows with such words: 1:",
        ),
        (
            "height",
            lambda n: [f"{150 + i / 2} cm" for i in range(n)],
            "write its numbers without 'cm'",
        ),
        (
            "height",
            lambda n: [f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(n)],
            "days or times, such as '2024-01-01': write them as numbers.*height=categorical",
        ),
        (
            "height",
            lambda n: [f"{i % 24}:{i % 60:02d}" for i in range(n)],
            "days or times",
        ),
    ],
)
def test_a_column_that_cannot_be_learned(refused, tmp_path, column, cells, words):
    frame = people(60)
    frame[column] = cells(60)
    frame.to_csv(tmp_path / "people.csv", index=False)
    said = refused(
        "train", "--dataset", tmp_path / "people.csv", "--likelihood", "columns", *TINY
    )
    assert re.search(words, said), said


def test_few_words_among_numbers_are_categories_where_that_is_asked_for():
    cells = ["1", "2"] * 29 + ["x", "y"]
    other = np.arange(60) / 7
    frame = pandas.DataFrame({"size": cells, "other": other})
    with pytest.raises(InputError, match="holds numbers, but 'x' in data row 58"):
        Table(frame, "columns")
    with pytest.raises(InputError, match="holds numbers, but 'x' in data row 58"):
        Table(frame, "columns, size=gaussian")
    table = Table(frame, "columns, size=categorical")
    assert table.schema.columns[0].categories == ("1", "2", "x", "y")
    many = pandas.DataFrame({"size": ["1", "2", "x"] * 20, "other": other})
    assert Table(many, "columns").schema.columns[0].categories == ("1", "2", "x")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1.0, None] * 30, "no value .* add missing=True .*leave the column out$"),
        ([f"P{i}" for i in range(60)], "60 different texts .*'P' or leave it out$"),
        ([1] * 60, "nothing to learn: leave it out$"),
        ([*range(59), "x"], "add missing=True .*leave the column out$"),
    ],
)
def test_a_table_in_python_names_no_options_of_the_command_line(column, words):
    frame = pandas.DataFrame({"one": column, "other": np.arange(60) / 7})
    with pytest.raises(InputError, match=words) as refusal:
        Table(frame, "columns")
    assert "--" not in str(refusal.value)


def test_of_one_row_nothing_is_said_of_its_columns(refused, tmp_path):
    people(1).to_csv(tmp_path / "people.csv", index=False)
    said = refused(
        "train", "--dataset", tmp_path / "people.csv", "--likelihood", "columns", *TINY
    )
    assert "has one row, too few" in said


@pytest.fixture(scope="module")
def on_people(tmp_path_factory, call):
    """A run on the table of people, and the text of its training."""
    folder = tmp_path_factory.mktemp("people")
    people().to_csv(folder / "people.csv", index=False)
    options = ("--likelihood", "columns, height=studentt(df=5)", "--epochs", 2, *TINY)
    said = call(
        "train",
        "--dataset",
        folder / "people.csv",
        *options,
        "--output",
        folder / "run",
    )
    assert (said.code, said.err) == (0, "")
    return folder / "run", said.out


def test_a_run_says_what_each_column_is_taken_for(on_people):
    out = on_people[1]
    for words in (
        "job     Categorical(levels=4)  categories: 'clerk', 'nurse', 'pilot', 'teacher'",
        "grade   Ordinal(levels=5)      ordered scale: 1, 2, 3, 4, 5",
        "grade=categorical if they are codes",
        "height  StudentT(df=5)         reals",
    ):
        assert words in out
    again = open_run(on_people[0])
    assert {c.name: c.kind for c in again.schema.columns} == KIND


def test_a_run_takes_frames_and_gives_frames(on_people):
    run, frame = open_run(on_people[0]), people()
    torch.manual_seed(0)
    x = run.see(frame[frame.columns[::-1]])
    table = Table(frame, "columns, height=studentt(df=5)")
    torch.testing.assert_close(x, table.x.float())
    assert list(run.sample(5).columns) == list(KIND)
    made = run.reconstruct(frame.tail(3))
    assert list(made.index) == list(frame.tail(3).index)
    assert set(made["sex"]) <= {"f", "m"}
    with pytest.raises(InputError, match=r"'job' .* holds 'farmer' in data row 1"):
        run.see(frame.head(3).assign(job=["clerk", "farmer", "pilot"]))
    with pytest.raises(InputError, match="has no column 'job'"):
        run.see(frame.drop(columns="job"))


def test_a_run_goes_on_and_reads_new_data(on_people, call, tmp_path):
    shutil.copytree(on_people[0].parent, tmp_path / "people")
    run = tmp_path / "people" / "run"
    assert call("train", "--resume", run, "--epochs", 3).code == 0
    new = people(340).tail(40)[[*KIND][::-1]].assign(extra=1)
    new.to_csv(tmp_path / "new.csv", index=False)
    said = call("evaluate", run, "--data", tmp_path / "new.csv", "--num-particles", 20)
    assert (said.code, said.err) == (0, "")
    assert "columns that the run does not know left out: 'extra'" in said.out
    new["job"] = "farmer"
    new.to_csv(tmp_path / "new.csv", index=False)
    said = call("evaluate", run, "--data", tmp_path / "new.csv", "--num-particles", 20)
    assert said.code == 2
    assert "column 'job'" in said.err
    assert "'farmer' in data row 0" in said.err
    assert call("encode", run, "--data", tmp_path / "people" / "people.csv").code == 0


def test_an_array_is_a_table_whose_columns_are_counted(train, tmp_path):
    np.save(tmp_path / "x.npy", table(100).numpy())
    folder = train(
        "run", "--dataset", tmp_path / "x.npy", "--likelihood", "columns", *TINY
    )
    kinds = [c.kind for c in open_run(folder).schema.columns]
    assert kinds == ["count", "real", "ordinal", "bit", "positive", "ordinal"]


def test_a_density_is_over_the_stored_numbers_wherever_they_lie(train, tmp_path):
    """Reals far from 0 are counted from there; log p(x) stays a density over them."""
    rng = np.random.default_rng(0)
    far = pandas.DataFrame(
        {"t": 1.7e9 + rng.normal(size=400), "k": rng.integers(0, 2, 400)}
    )
    means = []
    for shift in (0.0, 1.7e9):
        far.assign(t=far["t"] - shift).to_csv(tmp_path / "far.csv", index=False)
        named = (
            "--dataset",
            tmp_path / "far.csv",
            "--likelihood",
            "columns",
            "--epochs",
            3,
        )
        run = open_run(train(f"run{shift}", *named, *TINY))
        torch.manual_seed(0)
        x = run.split("test")
        means.append(
            log_marginal(run.vae.model, run.vae.guide, x, num_particles=50).mean
        )
    assert abs(means[0] - means[1]) < 0.05


@pytest.mark.skipif(
    "PYRO_VAE_DATA" not in os.environ, reason="needs the tables of HI-VAE"
)
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("Wine", {"bit": 1, "ordinal": 1}),
        ("Adult", {"bit": 1, "ordinal": 6, "count": 5}),
    ],
)
def test_real_tables(name, kinds, tmp_path):
    path = Path(os.environ["PYRO_VAE_DATA"]) / "hivae" / name / "data.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    whole = pandas.read_csv(path, header=None).dropna().iloc[::5]
    whole.to_csv(tmp_path / "whole.csv", header=False, index=False)
    data = load_data(str(tmp_path / "whole.csv"), header="no", columns={})
    found = Counter(column.kind for column in data.schema.columns)
    assert all(found[kind] >= count for kind, count in kinds.items()), found
    for column, values in zip(data.schema.columns, data.values["train"].T, strict=True):
        assert column.cells(values.numpy()).shape == values.shape


def test_the_surprise_of_a_cell_is_its_conditional_density():
    """In probabilistic PCA: a normal density, by the precision matrix."""
    pca = PPCA(2, 4, widen=1.2)
    members = {name: lambda shape: Gaussian(shape, scale=0.7) for name in "abcd"}
    columns = Columns((4,), columns=members).double()
    pca.vae.model.likelihood = columns
    x = pca.sample(30)
    torch.manual_seed(0)
    found = by_column(pca.vae, x, draws=20_000)
    precision = torch.linalg.inv(pca.marginal.covariance_matrix)
    scale = precision.diagonal().rsqrt()
    centre = x - (x - pca.b) @ precision / precision.diagonal()
    exact = -torch.distributions.Normal(centre, scale).log_prob(x)
    torch.testing.assert_close(found.surprise, exact, rtol=0, atol=0.06)
    assert (found.surprise - exact).abs().mean() < 0.01
    q = pca.vae.encode(x)
    w = pca.vae.model.decoder.layers[0].weight
    noise = (w @ q.covariance_matrix @ w.T).diagonal(dim1=-2, dim2=-1)
    at_mean = torch.distributions.Normal(q.mean @ w.T + pca.b, 0.7).log_prob(x)
    exact = at_mean - noise / 2 / 0.7**2
    torch.testing.assert_close(found.reconstruction, exact, rtol=0, atol=0.1)
    assert (found.reconstruction - exact).abs().mean() < 0.01


def test_an_evaluation_says_what_it_makes_of_each_column(on_people, call, tmp_path):
    shutil.copytree(on_people[0].parent, tmp_path / "people")
    run = tmp_path / "people" / "run"
    said = call(
        "evaluate",
        run,
        "--num-particles",
        50,
        "--csv",
        tmp_path / "cells.csv",
        "--report",
    )
    assert (said.code, said.err) == (0, "")
    assert "Column by column: 7 columns on 60 data" in said.out
    cells = pandas.read_csv(tmp_path / "cells.csv")
    each = cells[[f"columntable_reconstruction_{name}" for name in KIND]].sum(axis=1)
    assert abs(each.mean() - cells["reconstruction"].mean()) < 0.2
    assert cells["columntable_surprise_job"].min() > 0  # a mass
    answer = json.loads((run / "evaluation.json").read_text())["columntable"]
    assert answer["job"]["of"] == "mass"
    assert answer["income"]["of"] == "density"
    page = (run / "report.html").read_text()
    assert "those that hang together most" in page
    assert "Interpolation and traversal" not in page


def test_only_columns_are_asked_about(trained, refused):
    said = refused("evaluate", trained, "--ask", "columntable")
    assert "the likelihood Bernoulli is one for all of x" in said


def test_samples_of_a_table_are_a_table(on_people, call, tmp_path):
    for kind in ("prior", "reconstructions"):
        out = tmp_path / kind
        said = call(
            "sample", on_people[0], "--kind", kind, "--count", 40, "--output", out
        )
        assert (said.code, said.err) == (0, "")
        made = pandas.read_csv(out / f"{kind}.csv")
        assert [*made.columns] == [
            *(["row"] if kind == "reconstructions" else []),
            *KIND,
        ]
        assert set(made["job"]) <= {"clerk", "nurse", "pilot", "teacher"}
        assert len(made) == len(np.load(out / f"{kind}.npy"))
    first = people().iloc[made["row"]]  # the rows that were made again
    assert first.index.is_unique
    assert set(made["row"]) <= set(open_run(on_people[0]).data.rows["test"])
    drawn = pandas.read_csv(tmp_path / "prior" / "prior.csv")
    assert drawn["visits"].dtype.kind == "i"
    again = open_run(on_people[0])
    assert again.see(drawn).shape == (40, 7)  # what is drawn is data


def test_a_table_has_no_pictures_of_images(on_people, call):
    said = call("sample", on_people[0], "--kind", "manifold")
    assert said.code == 2
    assert "columns of mixed kinds: choose prior or reconstructions" in said.err
    figures = {path.name for path in (on_people[0] / "figures").iterdir()}
    assert {"prior_samples.png", "prior_pairs.png", "reconstructions.png"} <= figures
    assert "manifold.png" not in figures


def test_a_table_is_drawn_whatever_it_holds():
    """Names that are no formulas, a column that never varies in a few draws, a single row, many categories."""
    many = tuple(f"kind ${i}" for i in range(30))
    columns = [Held("$a_b", "real"), Held("n", "count"), Held("c", "category", many)]
    data = np.array([[1.0, 3.0, 2.0], [2.0, 0.0, 29.0], [5.0, 1.0, 7.0]])
    for tables in ([data, data[:1]], [data[:1]]):
        names = ["data", "draws"][: len(tables)]
        for draw in (table_marginals, table_pairs):
            draw(columns, tables, names, title="t").canvas.draw()
    table_reconstructions(columns, data, data[::-1]).canvas.draw()
    scale = [Held("s", "ordinal", tuple(np.linspace(8, 14, 50).tolist()))]
    codes = np.array([[0.0], [49.0], [np.nan], [20.0]])
    table_marginals(scale, [codes], ["data"]).canvas.draw()
    table_reconstructions(scale, codes, codes).canvas.draw()
    wide = [Held(str(i), "real") for i in range(40)]
    figure = table_marginals(
        wide, [np.random.default_rng(0).normal(size=(50, 40))], ["data"]
    )
    assert "the first 24 of 40 columns" in figure.get_suptitle()


def test_what_stands_for_a_row_is_a_median_a_mode_or_a_mean():
    names = "columns(columns={'o': ordinal(levels=4), 'c': categorical(levels=3), 'n': poisson()})"
    likelihood = parse("likelihood", names)((3,)).double()
    h = torch.tensor([[2.0, 0.1, 0.9, 0.3, 1.5], [-9.0, 5.0, 0.0, 0.0, 0.0]]).double()
    p = likelihood(h)
    cumulated = torch.sigmoid(likelihood.members[0].thresholds - h[:, :1])
    median = (cumulated.squeeze() < 0.5).sum(-1)
    expected = torch.stack(
        [median.double(), torch.tensor([1.0, 0.0]), h[:, 4].exp()], 1
    )
    torch.testing.assert_close(likelihood.typical(p), expected)
    torch.testing.assert_close(likelihood.typical(likelihood.partly(p)), expected)
