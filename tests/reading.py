"""Reading back what the programs leave, for the tests of the programs."""

import csv
import tomllib

import torch
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
