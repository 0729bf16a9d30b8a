"""Programs that are told of a run, by stand-ins that keep what they hear."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reading import TINY, mentions, rows

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

BOTH = ("--log", "mlflow, wandb")
PICTURES = {"learning_curves", "reconstructions", "prior_samples"}


@pytest.fixture
def heard(monkeypatch):
    """Stand-ins for MLflow and Weights & Biases; what they heard: calls by name."""
    calls = []

    def hears(name, answer=None):
        def call(*args, **kwargs):
            calls.append((name, args, kwargs))
            return answer(kwargs) if callable(answer) else answer

        return call

    def mlflows(kwargs):
        return SimpleNamespace(
            info=SimpleNamespace(run_id=kwargs["run_id"] or "the run")
        )

    run = SimpleNamespace(
        id="its id", log=hears("wandb.log"), finish=hears("wandb.finish")
    )
    mlflow = SimpleNamespace(
        start_run=hears("mlflow.start_run", mlflows),
        log_params=hears("mlflow.log_params"),
        log_metrics=hears("mlflow.log_metrics"),
        log_artifact=hears("mlflow.log_artifact"),
        end_run=hears("mlflow.end_run"),
    )
    wandb = SimpleNamespace(
        init=hears("wandb.init", run), Image=str, Settings=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def found(name):
        return [(args, kwargs) for called, args, kwargs in calls if called == name]

    return SimpleNamespace(calls=calls, of=found, mlflow=mlflow)


def test_options_epochs_and_pictures_are_told(call, heard):
    assert call("train", "--output", "run", "--epochs", 2, *TINY, *BOTH).code == 0
    ((options,), _), *_ = heard.of("mlflow.log_params")
    assert options["latent_dim"] == 3
    (_, begun), again = heard.of("wandb.init")
    assert (begun["name"], begun["config"]["latent_dim"]) == ("run", 3)
    assert again[1]["id"] == "its id"
    written = rows(Path("run"))
    for name in ("mlflow.log_metrics", "wandb.log"):
        told = [(a[0], k["step"]) for a, k in heard.of(name) if "step" in k]
        assert [step for _, step in told] == [1, 2]
        assert [n["elbo"] for n, _ in told] == [float(r["elbo"]) for r in written]
        assert "perplexity" not in told[0][0]  # which this pair does not have
    files = {Path(args[0]).stem for args, _ in heard.of("mlflow.log_artifact")}
    shown = {name for (a,), k in heard.of("wandb.log") if not k for name in a}
    assert files == shown == PICTURES
    assert len(heard.of("mlflow.end_run")) == len(heard.of("wandb.finish")) == 2


def test_a_resumed_run_is_the_same_and_one_in_its_place_another(call, heard):
    assert call("train", "--output", "run", "--epochs", 1, *TINY, *BOTH).code == 0
    assert json.loads(Path("run/logs.json").read_text()) == {
        "mlflow": "the run",
        "wandb": "its id",
    }
    heard.calls.clear()
    assert call("train", "--resume", "run", "--epochs", 2).code == 0
    assert heard.of("mlflow.start_run")[0][1]["run_id"] == "the run"
    assert not heard.of("mlflow.log_params")
    assert [k["step"] for _, k in heard.of("mlflow.log_metrics")] == [2]
    heard.calls.clear()
    options = ("--output", "run", "--overwrite", "--epochs", 1, *TINY, *BOTH)
    assert call("train", *options).code == 0
    assert heard.of("mlflow.start_run")[0][1]["run_id"] is None


def test_training_goes_on_where_one_fails_later(call, heard):
    def gone(*args, **kwargs):
        raise ConnectionError("the server has gone")

    heard.mlflow.log_metrics = gone
    said = call("train", "--output", "run", "--epochs", 2, *TINY, *BOTH)
    assert said.code == 0
    assert said.out.count("mlflow is told no more: the server has gone") == 1
    assert len([k for _, k in heard.of("wandb.log") if k]) == 2


def test_one_that_cannot_begin_is_told_before_training(refused, heard):
    def gone(*args, **kwargs):
        raise ConnectionError("no server there")

    heard.mlflow.start_run = gone
    sentence = refused("train", "--output", "run", *TINY, *BOTH)
    mentions(sentence, "--log mlflow failed: no server there")
    assert not Path("run/metrics.csv").exists()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_one_that_is_not_installed(refused, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    sentence = refused("train", "--log", f"tensorboard,{name}", *TINY)
    mentions(sentence, f"--log {name} needs", f"pip install 'pyro-vae[{name}]'")


def test_an_unknown_one(refused):
    mentions(refused("train", "--log", "mlflow,xyz"), "--log 'xyz'", "tensorboard")


def test_one_that_has_gone_in_the_end_costs_no_finished_training(call, heard):
    start, starts = heard.mlflow.start_run, []

    def once(**options):
        starts.append(options)
        if len(starts) > 1:
            raise ConnectionError("no server there")
        return start(**options)

    heard.mlflow.start_run = once
    said = call("train", "--output", "run", "--epochs", 1, *TINY, "--log", "mlflow")
    assert said.code == 0
    mentions(said.out, "note: the pictures are not shown", "no server there", "done in")
