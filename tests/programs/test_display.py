"""What training and the other programs print where the output is no terminal, and with `--quiet`."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from pyro_vae._cli import display as module
from pyro_vae._cli.display import APART, FEW, LATEST, Display
from pyro_vae._cli.telling import teller
from pyro_vae.inference.epochs import Epoch
from reading import TINY, rows, same, weights

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


@pytest.fixture
def shown(monkeypatch, capsys):
    """The lines of epochs that last so many seconds each, with these scores."""

    def run(scores, seconds, first=0, **options):
        now = [0.0]
        monkeypatch.setattr(
            module, "time", SimpleNamespace(perf_counter=lambda: now[0])
        )
        display = Display(first + len(scores), first, **options)
        best = -np.inf
        for i, score in enumerate(scores, first + 1):
            now[0] += seconds
            values = dict.fromkeys(Epoch._fields, score)
            e = Epoch(**{**values, "epoch": i, "images_per_second": 1234.0})
            display.epoch(e, best=score > best)
            best = max(best, score)
        display.close()
        return capsys.readouterr().out.splitlines()

    return run


def epochs_of(lines):
    return [int(re.match(r"(?:best +)?epoch (\d+)/", line)[1]) for line in lines]


def test_few_epochs_have_a_line_each(shown):
    assert epochs_of(shown([-1.0] * FEW, 0.01)) == [*range(1, FEW + 1)]


@pytest.mark.parametrize("seconds", [0.01, 1.0, 7.0, 80.0])
def test_many_epochs_have_a_line_now_and_then(shown, seconds):
    count, best = 500, 321
    scores = [-2.0] * count
    scores[best - 1] = -1.0
    lines = shown(scores, seconds)
    printed = epochs_of(lines)
    assert printed[0] == 1
    assert {best, count} <= set(printed)
    in_order = [line for line in lines if line.startswith("epoch")]
    when = np.diff(epochs_of(in_order)[:-1]) * seconds
    assert (when >= APART).all()
    assert (when <= max(LATEST, seconds) + seconds).all()
    if seconds == 7.0:  # a hundredth of all epochs, 35 seconds, between two lines
        assert set(when) == {35.0}
    # What is named as the best stands once, behind the others where it had no line.
    assert printed.count(best) == 1
    assert lines[-1].startswith("best ") or best in epochs_of(in_order)


def test_the_last_line_is_there_when_training_stops_early(monkeypatch, capsys):
    display = Display(1000, 0)
    for i in (1, 2, 3):
        e = Epoch(**{**dict.fromkeys(Epoch._fields, -1.0), "epoch": i})
        display.epoch(e, best=i == 1)
    display.close()
    assert epochs_of(capsys.readouterr().out.splitlines()) == [1, 3]


def test_a_run_that_goes_on_begins_with_a_line(shown):
    lines = shown([-1.0 - i for i in range(100)], 0.01, first=700)
    assert epochs_of(lines) == [701, 800]


def test_data_that_are_no_images_are_not_called_so(shown, call, tmp_path, rng):
    assert "1,234 data/s" in shown([-1.0], 1.0)[0]
    assert "1,234 images/s" in shown([-1.0], 1.0, unit="images")[0]
    np.save("rows.npy", rng.normal(size=(40, 3)))
    for dataset, likelihood, unit in (
        ("rows.npy", "gaussian", "data"),
        ("digits", "bernoulli", "images"),
    ):
        options = ("--likelihood", likelihood, *TINY, "--epochs", 1)
        said = call("train", "--dataset", dataset, *options, "--output", unit)
        assert re.search(rf"epoch 1/1: .* [\d,]+ {unit}/s, 0 s left\n", said.out)
    assert "images_per_second" in rows(tmp_path / "data")[0]


def test_metrics_keep_all_epochs(train):
    run = train("run", *TINY, "--epochs", FEW + 5)
    assert [row["epoch"] for row in rows(run)] == [str(i + 1) for i in range(FEW + 5)]


def test_quiet_keeps_warnings_and_the_result(call, tmp_path):
    options = ("train", *TINY, "--epochs", 2, "--output")
    loud, quiet = call(*options, "loud"), call(*options, "quiet", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    done, files = quiet.out.splitlines()
    assert re.match(r"done in \d+ s: best validation ELBO", done)
    assert files == loud.out.splitlines()[-2].replace("loud", "quiet")
    assert same(weights(tmp_path / "loud"), weights(tmp_path / "quiet"))
    assert "quiet" not in (tmp_path / "quiet" / "config.toml").read_text()

    said = call("evaluate", "quiet", "--num-particles", 5, "--quiet")
    lines = said.out.splitlines()
    assert lines[-1].startswith("written: quiet/evaluation.json, ")
    assert re.fullmatch(
        r"log p\(x\) -[\d.]+ ± [\d.]+ nats per datum, 359 of 359 test data", lines[-2]
    )
    assert lines[:-2]  # five particles are too few
    assert all(line.startswith("warning: ") for line in lines[:-2])

    said = call("encode", "quiet", "--quiet")
    lines = said.out.splitlines()
    assert lines[0].startswith("accuracy of ")
    assert lines[-1].startswith("written: quiet/latents.npz")


def test_quiet_training_still_says_what_goes_wrong(call):
    options = (
        "--objective",
        "elbo(beta=1000.0)",
        *TINY,
        "--epochs",
        9,
        "--batch-size",
        40,
    )
    said = call("train", *options, "--output", "run", "--quiet")
    assert [line.split()[0] for line in said.out.splitlines()] == [
        "collapsed",
        "done",
        "run:",
    ]


def test_an_interrupted_run_says_how_to_go_on(call, monkeypatch):
    monkeypatch.setattr("pyro_vae.train.train", lambda *_, **__: False)
    said = call("train", *TINY, "--output", "run", "--quiet")
    assert said.code == 130
    assert said.out.startswith("stopped and saved; go on with: ")
    assert len(said.out.splitlines()) == 1


def test_quiet_imputation(call, train, rng):
    x = rng.normal(size=(40, 3))
    np.save("rows.npy", x)
    options = ("--dataset", "rows.npy", "--likelihood", "gaussian", "--hide", 0.2)
    train("run", *options, *TINY, "--epochs", 1)
    said = call("impute", "run", "--num-particles", 20, "--quiet")
    *before, last = said.out.splitlines()
    assert last.startswith("written: run/imputed.csv")
    assert all(line.startswith(("warning: ", "note: ")) for line in before)


def test_what_a_teller_leaves_out(capsys):
    text = "a table\nwarning: doubtful\nnote: this too\nnot a warning: no\n"
    teller(quiet=True)(text)
    assert capsys.readouterr().out == "warning: doubtful\nnote: this too\n"
    teller(quiet=True)("nothing")
    assert capsys.readouterr().out == ""
    teller(quiet=False)(text)
    assert capsys.readouterr().out == f"{text}\n"
