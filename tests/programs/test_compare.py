"""Comparing runs: the paired statistics against SciPy's, and what must not be compared."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae import InputError
from pyro_vae.compare import compare
from pyro_vae.data import Bridge, evenly, load_data
from pyro_vae.evaluation.results import LogMarginal
from reading import TINY, mentions, newest

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

N = 200


def result(seed, mean=0.0, *, n=N, num_particles=50):
    generator = torch.Generator().manual_seed(seed)
    values, errors, k = torch.randn(3, n, generator=generator).double()
    zero = torch.zeros(n).double()
    return LogMarginal(
        values + mean,
        0.1 * errors.abs(),
        zero + 10,
        0.5 + 0.3 * k,
        zero,
        zero,
        zero,
        num_particles,
    )


def test_paired_statistics_are_those_of_scipy():
    shared = result(0).values
    found = {
        name: result(i, mean)
        for i, (name, mean) in enumerate({"a": 0.1, "b": 0.6, "c": -1.0}.items())
    }
    arrays = {
        name: {**r.per_datum, "values": r.values + 3 * shared, "estimated_bias": 0.0}
        for name, r in found.items()
    }
    compared = compare(arrays)
    assert compared.ranking == ["b", "a", "c"]
    assert compared.best == "b"
    assert list(compared.differences) == ["a", "c"]
    for name, d in compared.differences.items():
        a, b = (arrays[key]["values"].numpy() for key in (name, "b"))
        expected = stats.ttest_rel(a, b)
        assert (d.t, d.p) == (
            pytest.approx(expected.statistic),
            pytest.approx(expected.pvalue),
        )
        assert d.mean == pytest.approx(a.mean() - b.mean())
        assert d.data_standard_error == pytest.approx(stats.sem(a - b))
        noise = (
            math.sqrt(
                sum(
                    float(arrays[key]["standard_errors"].square().sum())
                    for key in (name, "b")
                )
            )
            / N
        )
        assert d.monte_carlo_standard_error == pytest.approx(noise)
        assert noise < d.data_standard_error == d.standard_error  # which holds it
        assert (d.higher, d.lower) == ((a > b).sum(), (a < b).sum())
        back = compared.pair("b", name)
        assert (back.mean, back.p, back.higher, back.lower) == (
            -d.mean,
            d.p,
            d.lower,
            d.higher,
        )
    unpaired = math.hypot(
        compared.scores["a"].data_standard_error,
        compared.scores["b"].data_standard_error,
    )
    assert (
        compared.differences["a"].standard_error < unpaired / 2
    )  # what pairing is for


def test_numbers_of_one_result_are_its_own():
    r = result(0)
    s = compare({"a": r, "b": result(1)}).scores["a"]
    assert s.mean == pytest.approx(r.mean)
    assert s.data_standard_error == pytest.approx(r.data_standard_error)
    assert s.monte_carlo_standard_error == pytest.approx(r.monte_carlo_standard_error)
    assert s.doubtful == int(r.doubtful.sum())
    assert s.num_particles == (50, 50)


@pytest.mark.parametrize(("times", "told_apart"), [(1.9, False), (2.1, True)])
def test_two_standard_errors_tell_apart(times, told_apart):
    d = np.random.default_rng(0).normal(size=N)
    d = d - d.mean() + times * stats.sem(d)
    compared = compare({"low": np.zeros(N), "high": d})
    assert compared.differences["low"].distinguishable is told_apart
    (line,) = (
        s
        for s in str(compared.answer().parts["differences"]).splitlines()
        if s.startswith("low ")
    )
    assert ("not distinguishable" in line) is not told_apart


def test_equal_values_are_not_distinguishable():
    d = compare({"a": np.arange(5.0), "b": np.arange(5.0)}).differences["b"]
    assert (d.mean, d.t, d.p, d.higher, d.lower, d.distinguishable) == (
        0,
        0,
        1,
        0,
        0,
        False,
    )
    d = compare({"a": np.ones(5), "b": np.zeros(5)}).differences["b"]
    assert (d.t, d.p, d.distinguishable) == (-math.inf, 0, True)
    assert (
        compare({"a": np.ones(5), "b": np.zeros(5)}).to_dict()["differences_to_best"][
            "b"
        ]["t"]
        is None
    )


def test_monte_carlo_errors_count():
    exact = {"a": np.arange(10.0), "b": np.arange(10.0) + np.tile([0.9, 1.1], 5)}
    noisy = {
        name: {"values": v, "standard_errors": np.full(10, 5.0)}
        for name, v in exact.items()
    }
    unknown = {
        name: {"values": v, "standard_errors": np.full(10, math.nan)}
        for name, v in exact.items()
    }
    assert compare(exact).differences["a"].distinguishable
    assert not compare(noisy).differences["a"].distinguishable
    assert compare(unknown).differences["a"].distinguishable
    mentions(str(compare(unknown)), "warning: a has no Monte-Carlo errors")


def test_warnings():
    few, more = result(0, num_particles=50), result(1, num_particles=500)
    mentions(
        " ".join(compare({"a": few, "b": more}).warnings),
        "a 50",
        "b 500",
        "lower bound",
    )
    calm = LogMarginal(
        **{**few.per_datum, "pareto_k": torch.zeros(N)}, num_particles=50
    )
    assert compare({"a": calm, "b": calm}).warnings == []
    (only,) = compare({"a": calm, "b": few}).warnings
    mentions(
        only,
        f"b has a Pareto k above 0.7 for {int(few.doubtful.sum())} of {N} data",
        "too low",
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["two runs or more"]),
        ({"a": np.zeros(3)}, ["two runs or more"]),
        ({"a": np.zeros(3), "b": np.zeros(4)}, ["a has values for 3", "b for 4"]),
        ({"a": np.zeros(1), "b": np.zeros(1)}, ["two data or more"]),
        (
            {"a": np.zeros(3), "b": np.array([0, -np.inf, 0])},
            ["b has log p(x) = -inf", "datum 1"],
        ),
        ({"a": np.zeros(3), "b": np.zeros((3, 2))}, ["b", "(3, 2)"]),
        ({"a": np.zeros(3), "b": {"elbo": np.zeros(3)}}, ["b has no array 'values'"]),
        ({"a": np.zeros(3), "b": ["x", "y", "z"]}, ["the values of b"]),
        (
            {"a": np.zeros(3), "b": {"values": np.zeros(3), "pareto_k": np.zeros(2)}},
            ["pareto_k", "(2,)"],
        ),
    ],
)
def test_values_that_cannot_be_compared(values, words):
    with pytest.raises(InputError) as refusal:
        compare(values)
    mentions(str(refusal.value), *words)


def test_unknown_name():
    with pytest.raises(InputError, match="'c' was not compared"):
        compare({"a": np.zeros(3), "b": np.ones(3)}).pair("a", "c")


def test_two_runs_from_training_to_comparison(call, train, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    train("b", "--epochs", 1, *TINY, "--seed", 1)
    for run, particles in (("a", 20), ("b", 30)):
        assert (
            call("evaluate", run, "--num-particles", particles, "--limit", 60).code == 0
        )
    said = call("compare", "a", "b", "--json", "out.json")
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        "digits, 60 of 359 test data",
        "bits (0 or 1)",
        "warning: the numbers of particles differ (a 20",
    )
    told = json.loads((tmp_path / "out.json").read_text())
    files = {run: newest(tmp_path / run, "evaluation*.npz") for run in ("a", "b")}
    values = {run: np.load(file)["values"] for run, file in files.items()}
    mentions(
        said.out,
        "read: a/evaluation-test-limit60-k20.json, b/evaluation-test-limit60-k30.json",
    )
    assert told["best"] == "a"  # two epochs against one
    assert list(told["runs"]) == ["a", "b"]
    difference = told["differences_to_best"]["b"]
    mean = np.mean(values["b"] - values["a"])
    left = mean + 2 * told["runs"]["b"]["bias"]  # of a mean below 0
    assert told["runs"]["b"]["bias"] > 0
    errors = ("data_standard_error", "monte_carlo_standard_error")
    assert difference["data_standard_error"] == pytest.approx(
        stats.sem(values["b"] - values["a"])
    )
    assert difference["t"] == pytest.approx(
        left / max(difference[name] for name in errors)
    )
    assert difference["p"] == pytest.approx(
        2 * stats.t.sf(abs(difference["t"]), difference["freedom"])
    )
    assert told["runs"]["b"]["mean"] == pytest.approx(values["b"].mean())
    assert (
        call("compare", "b", "a").out.splitlines()[:6] == said.out.splitlines()[:6]
    )  # ranked, whatever the order
    assert call("compare", "a", "--split", "test", "b").code == 0
    assert call("compare", "a", tmp_path / "b").code == 0


@pytest.mark.parametrize("kind", ["dynamic", "static", "dequantize"])
def test_runs_see_the_same_bits(kind):
    """What pairing rests on: one draw for all, also under a limit, but another one in float64."""
    data, bridge = load_data("digits"), Bridge.kinds()[kind](16.0)
    for split in ("train", "validation", "test"):
        x = data.split(split, bridge).fixed()
        assert torch.equal(x[:], load_data("digits").split(split, bridge).fixed()[:])
        assert torch.equal(x.first(100)[:], x[evenly(100, len(x))])
    twice = data.split("test", bridge, dtype=torch.float64).fixed()[:]
    assert not torch.allclose(x[:].double(), twice, atol=1e-3)


SUMMARY = {
    "dataset": "digits",
    "split": "test",
    "data": 6,
    "data_in_split": 6,
    "representation": "BINARY",
    "bridge": "dynamic binarization",
    "num_particles": 50,
    "fingerprint": "of the sizes",
}


def run_folder(
    path, *, seed=0, precision="float32", sizes=(30, 5, 6), stem="evaluation", **changes
):
    """A run folder as training and evaluation leave it, without the weights."""
    summary = {**SUMMARY, **changes}
    if summary["fingerprint"] == "of the sizes":  # test data are split off first
        summary["fingerprint"] = str(
            sum(sizes) if summary["split"] == "test" else sizes
        )
    path.mkdir()
    split = dict(zip(("train", "validation", "test"), sizes, strict=True))
    rows = "\n".join(f"{name} = {size}" for name, size in split.items())
    (path / "config.toml").write_text(
        f'guide = "{path.name}"\nprecision = "{precision}"\n'
        f'[resolved]\nbridge = "dynamic"\nmaximum = 16.0\n[resolved.sizes]\n{rows}\n'
    )
    values = np.random.default_rng(seed).normal(size=summary["data"])
    summary["log_marginal"] = {"mean": values.mean()}
    (path / f"{stem}.json").write_text(json.dumps(summary))
    np.savez(
        path / f"{stem}.npz",
        values=values,
        standard_errors=0 * values,
        pareto_k=0 * values,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"representation": "REAL"},
            [
                "a mass of bits (0 or 1) (a) and a density of reals (b) are not comparable"
            ],
        ),
        (
            {"bridge": "static binarization"},
            ["b", "another bridge", "static binarization"],
        ),
        (
            {"dataset": "mnist", "fingerprint": None},
            ["digits", "mnist", "not the same data"],
        ),
        (
            {"fingerprint": "1d07"},
            ["not evaluated on the same data", "units, rows or order"],
        ),
        ({"data": 5}, ["6 test data", "5", "--limit"]),
        ({"data_in_split": 7}, ["divide digits differently"]),
        ({"sizes": (40, 5, 6)}, ["divide digits differently", "40 train"]),
        ({"precision": "float64"}, ["float32", "float64", "different bits"]),
    ],
)
def test_runs_that_cannot_be_compared(refused, tmp_path, changes, words):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=1, **changes)
    mentions(refused("compare", "a", "b"), "a", "b", *words)


def test_other_validation_data_leave_the_test_data_alone(call, refused, tmp_path):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=1, sizes=(33, 2, 6), precision="bf16")
    assert call("compare", "a", "b").code == 0
    for name, sizes in (("c", (30, 5, 6)), ("d", (32, 5, 4))):
        run_folder(
            tmp_path / name,
            sizes=sizes,
            stem="evaluation-validation",
            split="validation",
            data=5,
            data_in_split=5,
        )
    mentions(
        refused("compare", "c", "d", "--split", "validation"),
        "validation data are not the same",
    )


def test_refinement_of_some_runs(call, tmp_path):
    run_folder(tmp_path / "a", refinement_steps=None)
    run_folder(tmp_path / "b", seed=1, refinement_steps=100)
    mentions(
        call("compare", "a", "b", "--json", "x.json").out,
        "warning: the steps of refinement differ (a 0, b 100)",
    )
    assert "refinement" in json.loads((tmp_path / "x.json").read_text())["warnings"][-1]


def test_data_known_by_name_only(call, tmp_path):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=1, fingerprint=None)
    run_folder(tmp_path / "c", seed=1, dataset="a_copy_of_digits.npy")
    mentions(call("compare", "a", "b").out, "warning: b has no fingerprint of the data")
    said = call("compare", "a", "c")  # the same data by another name
    assert said.code == 0
    assert "warning" not in said.out


def test_particles_of_each_datum(call, tmp_path):
    for name in ("a", "b"):
        run_folder(tmp_path / name)
    with np.load("b/evaluation.npz") as file:
        columns = dict(file)
    np.savez(
        "b/evaluation.npz",
        **columns,
        num_particles=np.array([200, 50, 200, 200, 50, 200]),
    )
    mentions(call("compare", "a", "b").out, "a 50, b 50 to 200", "not distinguishable")
    np.savez(
        "b/evaluation.npz", **columns, num_particles=np.array([50, 50, 50, 200, 50, 50])
    )
    assert "particles differ" not in call("compare", "a", "b").out


def damage(name, text):
    return lambda folder: (folder / name).write_text(text)


def edit(**changes):
    def write(folder):
        summary = json.loads((folder / "evaluation.json").read_text())
        (folder / "evaluation.json").write_text(json.dumps({**summary, **changes}))

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda folder: (folder / "evaluation.json").unlink(),
            ["b has no evaluation of its test data"],
        ),
        (
            lambda folder: (folder / "evaluation.npz").unlink(),
            ["b has no evaluation of its test data"],
        ),
        (
            damage("evaluation.json", "{"),
            ["b/evaluation.json is not valid JSON", "run python -m"],
        ),
        (damage("evaluation.json", "[]"), ["b/evaluation.json is damaged"]),
        (edit(data="six"), ["b/evaluation.json is damaged", "'data'"]),
        (edit(split="train"), ["b/evaluation.json is damaged", "test"]),
        (edit(representation="BITS"), ["b/evaluation.json is damaged"]),
        (edit(data=7), ["b/evaluation.npz is damaged", "7"]),
        (edit(log_marginal={"mean": 3.0}), ["not of the same evaluation"]),
        (damage("evaluation.npz", "hello"), ["b/evaluation.npz is not a .npz file"]),
        (
            lambda folder: np.savez(folder / "evaluation.npz", values=np.zeros(6)),
            ["'standard_errors'"],
        ),
        (damage("config.toml", "resolved = 3"), ["b/config.toml", "[resolved]"]),
        (damage("config.toml", "="), ["b/config.toml is not valid TOML"]),
    ],
)
def test_damaged_evaluations(refused, tmp_path, change, words):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b")
    change(tmp_path / "b")
    sentence = refused("compare", "a", "b")
    mentions(sentence, *words)
    if "evaluation" in words[0] and "file" not in words[0]:
        mentions(sentence, "python -m pyro_vae.evaluate b")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["RUN"]),
        (["a"], ["two runs or more"]),
        (["a", "./a"], ["a and ./a are the same run"]),
        (["a", "none"], ["none does not exist"]),
        (["a", "."], ["holds no run"]),
        (
            ["a", "b", "--split", "validation"],
            ["python -m pyro_vae.evaluate a --split validation"],
        ),
        (["a", "b", "--split", "tests"], ["tests", "validation"]),
        (["a", "b", "--json", "none/x.json"], ["folder none does not exist"]),
        (["a", "b", "--json", "a"], ["is a folder"]),
        (["a", "b", "--jsn", "x"], ["did you mean --json?"]),
    ],
)
def test_wrong_commands(refused, tmp_path, arguments, words):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=1)
    mentions(refused("compare", *arguments), *words)


def test_help(call):
    said = call("compare", "--help")
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "python -m pyro_vae.compare", "RUN", "--json")


def seeds_of(path, name, *, shift=0.0, seeds=(0, 1, 2), **options):
    """Run folders of some seeds of a method, called after method and seed."""
    for seed in seeds:
        folder = path / f"{name}{seed}"
        run_folder(folder, seed=seed)
        lines = [f"seed = {seed}", *(f"{k} = {v!r}" for k, v in options.items())]
        text = (folder / "config.toml").read_text().partition("\n")[2]
        (folder / "config.toml").write_text("\n".join([*lines, text]))
        columns = dict(np.load(folder / "evaluation.npz"))
        columns["values"] = np.arange(6.0) + 0.01 * columns["values"] + shift
        np.savez(folder / "evaluation.npz", **columns)
        edit(log_marginal={"mean": columns["values"].mean()})(folder)
    return [f"{name}{seed}" for seed in seeds]


def test_runs_that_differ_in_their_seed_are_one_method(call, tmp_path):
    plain = seeds_of(tmp_path, "plain", latent_dim=10, device="cpu")
    small = seeds_of(tmp_path, "small", latent_dim=2, shift=-1.0)
    said = call("compare", *plain, *small, "--json", "x.json", "--table", "x.md")
    mentions(
        said.out,
        "latent_dim=10",
        "latent_dim=2",
        "sd over seeds",
        "written: x.md, x.json",
    )
    assert "trained once" not in said.out
    told = json.loads((tmp_path / "x.json").read_text())
    assert told["methods"]["latent_dim=2"]["runs"] == small
    values = [np.load(f"{run}/evaluation.npz")["values"] for run in plain]
    assert told["methods"]["latent_dim=10"]["seed_standard_deviation"] == pytest.approx(
        np.std(np.mean(values, 1), ddof=1)
    )
    assert told["differences_to_best"]["latent_dim=2"]["distinguishable"]
    mentions((tmp_path / "x.md").read_text(), "| latent_dim=10 | 3 |")

    apart = call("compare", *plain, *small, "--apart").out
    mentions(apart, *plain, *small, "trained once", "Holm")
    assert "sd over seeds" not in apart
    alone = call("compare", *plain).out
    mentions(alone, "plain", "nothing to rank")


def test_other_places_and_devices_make_no_other_method(call, tmp_path):
    first = seeds_of(
        tmp_path, "a", seeds=(0,), device="cpu", dataset="digits", workers=2
    )
    other = seeds_of(
        tmp_path, "b", seeds=(1,), device="cuda", dataset="copy.npy", workers=0
    )
    mentions(call("compare", *first, *other).out, "nothing to rank")


def test_other_training_data_make_another_method(call, tmp_path):
    runs = []
    for name, mark in (("a", "3113d8af"), ("b", "62b1a093")):
        runs += seeds_of(tmp_path, name, seeds=(0, 1))
        for run in runs[-2:]:
            with (tmp_path / run / "config.toml").open("a") as file:
                file.write(f'[resolved.fingerprint]\ntrain = "{mark}"\n')
    mentions(call("compare", *runs).out, "training data=3113d8", "training data=62b1a0")


def test_a_seed_that_occurs_twice_is_no_replicate(call, tmp_path):
    first = seeds_of(tmp_path, "a", seeds=(0, 1), latent_dim=2)
    again = seeds_of(tmp_path, "b", seeds=(0,), latent_dim=2, shift=0.1)
    said = call("compare", *first, *again).out
    mentions(
        said,
        "warning: a0, a1, b0 have the same options, and some the same seed",
        "trained once",
    )


def test_methods_that_are_named(call, refused, tmp_path):
    runs = seeds_of(tmp_path, "a", latent_dim=2), seeds_of(tmp_path, "b", epochs=9)
    said = call(
        "compare", f"small={','.join(runs[0])}", f"long={','.join(runs[1])}"
    ).out
    mentions(said, "Differences to ", "small", "long", "sd over seeds")
    mentions(refused("compare", "x=a0,a1", "x=b0"), "x is named twice", "x=RUN,RUN")
    mentions(refused("compare", "x=", "b0"), "'x=' is no method", "NAME=RUN,RUN")
    mentions(refused("compare", "x=a0,none", "b0"), "none does not exist")
    mentions(refused("compare", "x=a0,b0", "b0"), "b0 and b0 are the same run")


def test_one_method_of_several_was_trained_once(call, tmp_path):
    several, once = (
        seeds_of(tmp_path, "a", latent_dim=2),
        seeds_of(tmp_path, "b", seeds=(4,)),
    )
    mentions(
        call("compare", *several, *once).out, "trained once", "taken from the others"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "x.doc"], ["x.doc", ".md, .tex, .csv"]),
        (["--table", "none/x.md"], ["folder none does not exist"]),
        (["--json", "x.csv", "--table", "x.csv"], ["the same file, x.csv"]),
    ],
)
def test_files_that_cannot_be_written(refused, tmp_path, arguments, words):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=1)
    mentions(refused("compare", "a", "b", *arguments), *words)


def test_draws_that_are_spent_where_they_are_needed_are_no_disadvantage(call, tmp_path):
    for name, counts in (("a", [5000] * 6), ("b", [32] * 6)):
        run_folder(tmp_path / name, plan={"num_particles": 5000})
        columns = dict(np.load(tmp_path / name / "evaluation.npz"))
        np.savez(tmp_path / name / "evaluation.npz", **columns, num_particles=counts)
    assert "particles differ" not in call("compare", "a", "b").out
