"""Random data in the place of what the examples of Pyro download, and nothing in the place of what they draw."""

import datetime
import importlib
import importlib.util
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import matplotlib as mpl
import numpy as np
import pandas as pd
import sklearn.datasets
import torch
from pyro.infer import MCMC

DRAWING = (
    "visdom",
    "seaborn",
    "wget",
    "observations",
    "wordcloud",
    "corner",
    "graphviz",
)
IMAGES = 14_000  # digits to train on; ss_vae_M2 keeps 13,000 of them apart
SEQUENCES = {"train": 229, "valid": 76, "test": 77}  # as many as the chorales have
HOURS, STATIONS = 24 * 7 * 60, 12
WORDS = 400
DRAWS = 4  # of a chain, and as many in its warm-up
KEPT: list[Any] = []  # what must not be collected


def install(folder: Path) -> None:
    """Put the stand-ins in place, in this process; `folder` is for files of the examples."""
    mpl.use("agg")
    for name in DRAWING:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = MagicMock()
    with suppress(ImportError):  # without torchvision most examples do without
        _examples(folder)
    sklearn.datasets.fetch_20newsgroups = _news
    pd.read_csv = _tables(pd.read_csv)
    MCMC.__init__ = _short(MCMC.__init__)
    faces = np.random.RandomState(0).randint(0, 256, (320, 64 * 64))
    np.savetxt(folder / "faces_training.csv", faces, fmt="%d", delimiter=",")
    random.seed = _seed(random.seed)


def _examples(folder: Path) -> None:
    _import_torchvision()
    from pyro.contrib.examples import bart, finance, multi_mnist, nextstrain, util
    from pyro.contrib.examples import polyphonic_data_loader as chorales
    from torchvision import datasets

    util.get_data_directory = lambda *_: str(folder)
    datasets.MNIST.__init__ = _digits
    multi_mnist.load = _two_digits
    chorales.load_data = _chorales
    bart.load_bart_od = _trains
    finance.load_snp500 = _prices
    nextstrain.load_nextstrain_counts = _lineages


def _import_torchvision() -> None:
    """Beside another build of PyTorch than its own it lacks operators that importing it needs, and nobody calls."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [
            name for name in sys.modules if name.partition(".")[0] == "torchvision"
        ]:
            del sys.modules[name]
        lacking = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            lacking.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        importlib.import_module("torchvision")
        KEPT.append(lacking)


def _digits(
    self: Any, root: str = ".", train: bool = True, transform: Any = None, **_: Any
) -> None:
    """MNIST: `data` of random pixels, a fifth of them white, and `targets`."""
    self.root, self.train, self.transform, self.target_transform = (
        root,
        train,
        transform,
        None,
    )
    g = torch.Generator().manual_seed(int(train))
    count = IMAGES if train else IMAGES // 7
    self.data = 255 * (torch.rand(count, 28, 28, generator=g) < 0.2).to(torch.uint8)
    self.targets = torch.randint(10, (count,), generator=g)


def _two_digits(root: str) -> tuple[Any, Any]:
    """Images of up to two digits, and which these are."""
    r = np.random.RandomState(0)
    x = 255 * (r.rand(1000, 50, 50) < 0.1).astype(np.uint8)
    return x, np.array([[3] * r.randint(3) for _ in range(len(x))], dtype=object)


def _chorales(dataset: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Sequences of chords of 88 notes, and their lengths."""
    g = torch.Generator().manual_seed(0)
    found = {}
    for split, count in SEQUENCES.items():
        lengths = torch.randint(25, 130, (count,), generator=g)
        notes = (torch.rand(count, 129, 88, generator=g) < 0.05).float()
        inside = torch.arange(129) < lengths[:, None]
        found[split] = {
            "sequences": notes * inside[..., None],
            "sequence_lengths": lengths,
        }
    return found


def _trains() -> dict[str, Any]:
    """Passengers between stations, hour by hour."""
    g = torch.Generator().manual_seed(0)
    daily = 1 + torch.sin(torch.arange(HOURS) * (2 * np.pi / 24))
    rate = 5 * daily[:, None, None] * torch.rand(STATIONS, STATIONS, generator=g)
    return {
        "stations": ["EMBR", *map(str, range(1, STATIONS))],
        "start_date": datetime.datetime(2011, 1, 1),
        "counts": torch.poisson(rate, generator=g),
    }


def _prices() -> pd.DataFrame:
    """Closing prices, day by day."""
    steps = 0.01 * np.random.RandomState(0).standard_t(3, 600)
    days = pd.date_range("2006-01-01", periods=len(steps)).strftime("%Y-%m-%d")
    return pd.DataFrame({"Date": days, "Close": 1000 * np.exp(steps.cumsum())})


def _lineages(map_location: Any = None) -> dict[str, Any]:
    """Counts of the lineages of a virus by time and place, and their mutations."""
    g = torch.Generator().manual_seed(0)
    times, places, lineages, mutations = 27, 40, 30, 60
    growth = (
        0.3 * torch.randn(lineages, generator=g) * torch.arange(times)[:, None, None]
    )
    shares = (torch.randn(places, lineages, generator=g) + growth).softmax(-1)
    rate = 200 * shares * torch.rand(times, places, 1, generator=g)
    counts = torch.poisson(rate, generator=g)
    index = counts.nonzero(as_tuple=True)
    known = ["USA / Massachusetts", "USA / California", "Europe / England"]
    return {
        "counts": counts,
        "sparse_counts": {
            "index": index,
            "value": counts[index],
            "total": counts.sum(-1),
        },
        "features": torch.randint(2, (lineages, mutations), generator=g).float(),
        "lineages": ["B.1.1.7", "B.1.617.2", *map(str, range(2, lineages))],
        "mutations": [f"S:D{i}" for i in range(mutations)],
        "locations": [*known, *(f"Elsewhere / {i}" for i in range(len(known), places))],
        "time_step_days": 14,
        "start_date": datetime.datetime(2020, 1, 1),
    }


def _news(**_: Any) -> dict[str, list[str]]:
    """Texts of few words."""
    r = np.random.RandomState(0)
    words = np.array([f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(WORDS)])
    return {"data": [" ".join(r.choice(words, 40)) for _ in range(1500)]}


def _tables(read: Any) -> Any:
    """`pandas.read_csv` with tables of countries and of sunspots in the place of those that are downloaded."""

    def read_csv(file: Any, *args: Any, **kwargs: Any) -> Any:
        r, n = np.random.RandomState(0), 234
        if "rugged" in str(file):
            columns = {
                "isocode": ["X"] * n,
                "country": ["Y"] * n,
                "rugged": r.gamma(1.5, 1, n),
            }
            columns |= {"cont_africa": r.randint(0, 2, n)}
            return pd.DataFrame({**columns, "rgdppc_2000": np.exp(r.normal(8.5, 1, n))})
        if "silso" in str(file):
            counts = r.poisson(40 * (1 + np.sin(np.arange(n) * 2 * np.pi / 11))) + 0.0
            return pd.DataFrame(
                {"time": np.arange(1700, 1700 + n) + 0.5, "sunspot.year": counts}
            )
        return read(file, *args, **kwargs)

    return read_csv


def _short(init: Any) -> Any:
    """`MCMC` of few draws."""

    def short(self: Any, kernel: Any, num_samples: int, *_: Any, **kwargs: Any) -> None:
        kwargs |= {"num_samples": min(num_samples, DRAWS), "warmup_steps": DRAWS}
        init(self, kernel, **kwargs)

    return short


def _seed(seed: Any) -> Any:
    """`random.seed` that takes a tensor, as it did in earlier versions of Python."""
    return lambda value=None, *rest: seed(
        int(value) if torch.is_tensor(value) else value, *rest
    )
