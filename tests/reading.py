"""Reading back what the programs leave, for the tests of the programs."""

import csv
import json
import tomllib

import torch
from safetensors import safe_open
from safetensors.torch import load_file

TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 3)


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def toml(run):
    return tomllib.loads((run / "config.toml").read_text())


def weights(run, which="last"):
    return {
        k: v
        for k, v in load_file(run / f"{which}.safetensors").items()
        if k.startswith("model.")
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def mentions(sentence, *words):
    for word in words:
        assert word in sentence, sentence


def newest(run, pattern="evaluation*.json"):
    """The file of the run that was written last: each evaluation has files of its own."""
    return max(run.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def everything(run):
    """All that a run leaves except how long it took, for comparison."""
    with safe_open(run / "last.safetensors", "pt") as file:
        header = json.loads(file.metadata()["pyro_vae"])
    timeless = [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in rows(run)
    ]
    return header, timeless


def assert_same_run(a, b):
    assert everything(a) == everything(b)
    for which in ("last", "best"):
        assert same(
            load_file(a / f"{which}.safetensors"), load_file(b / f"{which}.safetensors")
        )
    state = load_file(a / "last.safetensors")
    assert "random.cpu" in state
    assert any(key.startswith("optimizer.") for key in state)
