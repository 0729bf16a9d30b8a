"""Comparing methods by several seeds: against the mixed model that it assumes, SciPy, and brothers of one method."""

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from pyro_vae import InputError
from pyro_vae.evaluation.paired import compare
from pyro_vae.evaluation.tabled import comma_separated, latex, markdown
from reading import mentions

TRIES = 2000


def drawn(
    rng, runs, *, n=100, mean=0.0, seeds=0.1, data=4.0, own=1.0, both=1.0, shared=None
):
    """`log p(x)` of n data under so many runs of a method, by the mixed model."""
    shared = rng.normal(0, data, n) if shared is None else shared
    method = rng.normal(0, own, n)
    by_seed = rng.normal(0, seeds, (runs, 1))
    return list(mean + shared + method + by_seed + rng.normal(0, both, (runs, n)))


def alarms(sizes, *, tries=TRIES, **options):
    """The share of tries in which methods of the same mean were told apart, with the limits of that of 5 %."""
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(tries):
        shared = rng.normal(0, 4.0, 100)
        values = {
            str(name): drawn(rng, runs, shared=shared, **options)
            for name, runs in enumerate(sizes)
        }
        found = compare(values)
        count += any(d.distinguishable for d in found.pairs.values())
    low, high = stats.binom.interval(0.999, tries, 0.05)
    return count / tries, low / tries, high / tries


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((10, 10), {"seeds": 0.2}),
        ((5, 5), {"seeds": 0.1}),
        ((10, 10), {"seeds": 0.2, "own": 0.0}),  # of one method
        ((3, 8), {"seeds": 0.5}),
    ],
)
def test_false_alarms_of_methods_are_as_many_as_they_say(sizes, options):
    share, low, high = alarms(sizes, **options)
    assert low < share < high


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((2, 2), {"seeds": 0.5}),
        ((3, 3), {"seeds": 0.1}),
        ((3, 3), {"seeds": 0.0, "own": 0.0}),  # nothing but what is counted twice
        ((4, 1), {"seeds": 0.3}),  # the spread of one is that of the other
        ((3, 3, 3, 3), {"seeds": 0.3, "tries": 500}),  # six pairs
    ],
)
def test_false_alarms_of_few_seeds_are_no_more(sizes, options):
    share, _, high = alarms(sizes, **options)
    assert share < high


def test_seeds_of_one_method_are_not_two_methods():
    """Of single runs of one method trained models are told apart much more often than methods."""
    share, _, high = alarms((1, 1), seeds=0.5, own=0.0)
    assert share > 2 * high  # which is right of those models,
    share, _, high = alarms((3, 3), seeds=0.5, own=0.0)
    assert share < high  # and would be wrong of the method


def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 4.0, 400)
    means = {"low": 0.0, "high": 1.0}
    values = {
        name: drawn(rng, 5, n=400, mean=mean, shared=shared)
        for name, mean in means.items()
    }
    found = compare(values)
    assert found.best == "high"
    assert found.differences["low"].told == ""
    assert found.differences["low"].mean == pytest.approx(-1, abs=0.3)


def test_the_errors_are_those_of_the_mixed_model():
    """Against the mean squares of the two-way layout, worked out by hand."""
    rng = np.random.default_rng(2)
    a, b = (np.array(drawn(rng, runs, n=50)) for runs in (3, 4))
    d = compare({"a": list(a), "b": list(b)}).pair("a", "b")
    seeds = [v.mean(1).var(ddof=1) / len(v) for v in (a, b)]
    over_data = (a.mean(0) - b.mean(0)).var(ddof=1) / 50
    rest = 0
    for v in (a, b):
        left = v - v.mean(1, keepdims=True) - v.mean(0) + v.mean()
        rest += (left**2).sum() / ((len(v) - 1) * 49) / (len(v) * 50)
    variance = sum(seeds) + max(over_data - rest, 0)
    assert d.mean == pytest.approx(a.mean() - b.mean())
    assert d.seed_standard_error == pytest.approx(math.sqrt(sum(seeds)))
    assert d.data_standard_error == pytest.approx(math.sqrt(over_data))
    assert d.standard_error == pytest.approx(math.sqrt(variance))
    freedom = variance**2 / (over_data**2 / 49 + seeds[0] ** 2 / 2 + seeds[1] ** 2 / 3)
    assert d.freedom == pytest.approx(max(freedom, 1))
    assert d.p == pytest.approx(
        2 * stats.t.sf(abs(d.mean) / math.sqrt(variance), d.freedom)
    )


def test_with_data_that_hardly_differ_it_is_welch_on_the_seeds():
    rng = np.random.default_rng(3)
    a, b = (
        [np.full(40, m) + rng.normal(0, 1e-6, 40) for m in rng.normal(size=r)]
        for r in (4, 6)
    )
    d = compare({"a": a, "b": b}).pair("a", "b")
    expected = stats.ttest_ind(
        [v.mean() for v in a], [v.mean() for v in b], equal_var=False
    )
    assert (d.t, d.p) == (
        pytest.approx(expected.statistic),
        pytest.approx(expected.pvalue),
    )
    assert d.freedom == pytest.approx(expected.df)


def test_p_values_of_several_pairs_are_those_of_holm():
    rng = np.random.default_rng(4)
    shifts = (0.0, 0.05, 0.2, 0.4)
    found = compare(
        {str(i): rng.normal(shift, 1, 200) for i, shift in enumerate(shifts)}
    )
    plain = sorted(d.p for d in found.pairs.values())
    expected = np.maximum.accumulate([min((6 - i) * p, 1) for i, p in enumerate(plain)])
    assert sorted(d.p_adjusted for d in found.pairs.values()) == pytest.approx(expected)
    assert found.pair("3", "0").p_adjusted == found.pair("0", "3").p_adjusted


def weighed(values, *, bias=0.0, k=0.1, doubtful=0, **more):
    """A result with so many doubtful values."""
    index = np.full(len(values), k)
    index[:doubtful] = 0.9
    errors = np.full(len(values), 1e-6)
    return {
        "values": values,
        "standard_errors": errors,
        "pareto_k": index,
        "estimated_bias": -bias,
        **more,
    }


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        ({}, {}, ""),
        ({"bias": 0.2}, {}, ""),
        (
            {"bias": 0.6},
            {},
            "not distinguishable",
        ),  # twice as much would make up for it
        ({}, {"bias": 5.0}, ""),  # the higher one is higher still
        ({"doubtful": 5}, {}, ""),
        ({"doubtful": 7}, {}, "not ranked"),  # 7 of 200 by 30 nats
        ({"doubtful": 200}, {}, "not ranked"),
        ({}, {"doubtful": 200}, ""),
        ({"two_part": True}, {}, "not ranked"),
        ({}, {"two_part": True}, ""),
        ({"two_part": True}, {"two_part": True}, ""),
    ],
)
def test_what_may_hide_in_the_lower_one(low, high, told):
    noise = np.random.default_rng(5).normal(0, 0.1, 200)
    found = compare(
        {"low": weighed(noise, **low), "high": weighed(noise[::-1] + 1, **high)}
    )
    assert found.best == "high"
    assert found.differences["low"].told == told
    assert ("cannot be believed" in " ".join(found.warnings)) == (told == "not ranked")
    assert f"{told or 'low'}" in str(found)


def test_no_difference_is_too_large_for_doubt():
    values = np.random.default_rng(6).normal(0, 0.1, 200)
    many = compare(
        {"low": weighed(values, doubtful=21), "high": weighed(values + 1000)}
    )
    few = compare({"low": weighed(values, doubtful=20), "high": weighed(values + 1000)})
    assert many.differences["low"].told == "not ranked"
    assert few.differences["low"].told == ""


def three_methods():
    rng = np.random.default_rng(7)
    shared = rng.normal(0, 4.0, 100)
    values = {
        name: drawn(rng, 3, mean=mean, seeds=0.02, both=0.1, own=0.1, shared=shared)
        for name, mean in (("flow_100%", 3.0), ("mean & field", 0.0), ("flow|2", 2.99))
    }
    return compare(values)


def test_tables_to_paste():
    found = three_methods()
    text = markdown(found)
    heads, rule, *rows = text.split("\n\n")[0].splitlines()
    assert {line.count(" | ") for line in (heads, rule, *rows)} == {4}
    assert len(rows) == 3
    bold = [row for row in rows if "**" in row]
    mentions("".join(bold), "flow_100%", r"flow\|2")  # not told apart
    assert not any("mean & field" in row for row in bold)
    mentions(text, "±", "adjusted", "100 data")

    text = latex(found)
    mentions(
        text, r"flow\_100\%", r"mean \& field", r"$\pm$", r"\toprule", r"\bottomrule"
    )
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in lines} == {4}
    assert text.count(r"\textbf") == 2

    rows = list(csv.DictReader(io.StringIO(comma_separated(found))))
    assert [row["method"] for row in rows] == found.ranking
    assert float(rows[0]["mean"]) == found.methods[found.best].mean
    assert rows[0]["p"] == ""
    assert float(rows[2]["p_adjusted"]) == found.differences["mean & field"].p_adjusted
    assert rows[2]["distinguishable"] == "True"


def test_a_table_says_what_is_not_ranked():
    values = np.random.default_rng(8).normal(0, 0.1, 200)
    found = compare({"low": weighed(values, doubtful=100), "high": weighed(values + 1)})
    mentions(markdown(found), "†", "Not ranked")
    assert markdown(found).count("**") == 4  # neither is shown to be better
    mentions(latex(found), r"$^\dagger$", "Not ranked")


def test_names_of_runs():
    a = np.arange(3.0)
    assert list(compare({"a": [a, a + 1], "b": [a]}).scores) == ["a [0]", "a [1]", "b"]
    named = {"a": {"first": {"values": a}, "second": {"values": a + 1}}, "b": a}
    assert set(compare(named).scores) == {"first", "second", "b"}
    alone = compare({"a": [a, a + 1]})
    assert alone.differences == {}
    mentions(str(alone), "nothing to rank")
    assert alone.methods["a"].seed_standard_deviation == pytest.approx(math.sqrt(0.5))
    with pytest.raises(InputError, match=r"b \[1\] for 2"):
        compare({"a": a, "b": [a, a[:2]]})
