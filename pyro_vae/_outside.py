"""`evaluate --ood DATASET`: other data as a run would see them, and how well its scores tell them from its own."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_vae._errors import InputError
from pyro_vae._files import subfolder, write_atomically
from pyro_vae._program import Run
from pyro_vae.data import NAMED, Bridge, Split, load_data
from pyro_vae.data.streams import chunks
from pyro_vae.inference.inputs import as_data
from pyro_vae.inference.outliers import Separation, anomaly_scores
from pyro_vae.models.representation import Representation

TYPICAL = 1000  # training data whose mean log p(x) is typical


def outside(opened: Run, options: Any) -> dict[str, Split]:
    """The test split of each data set that `--ood` names, as the run would see it.

    Raises:
        InputError: when one cannot be found, when the model cannot take it, or for two of one name.
    """
    if options.ood and options.limit == 1:
        raise InputError("--ood needs two data or more; raise --limit")
    found: dict[str, Split] = {}
    stems: dict[str, str] = {}
    for name in options.ood:
        if (other := stems.setdefault(_stem(name), name)) != name or name in found:
            raise InputError(
                f"--ood {other} and --ood {name} would share the figure ood-{_stem(name)}.png; rename one"
            )
        found[name] = _seen(opened, name, options.data_dir)
    return found


def _stem(name: str) -> str:
    return name if name in NAMED else Path(name).stem


def _seen(opened: Run, name: str, data_dir: str | None) -> Split:
    """The test split of a data set under the bridge of the run, its random bits or noise drawn once."""
    try:
        data = load_data(
            name,
            data_dir=data_dir or opened.config.get("data_dir"),
            background=opened.config.get("background") if Path(name).is_dir() else None,
        )
    except InputError as error:
        raise InputError(str(error).replace("--dataset", "--ood")) from error
    own, bridge, support = opened.data, opened.bridge, opened.vae.model.likelihood.support
    if data.shape != own.shape:
        raise InputError(
            f"--ood {name} has data of shape {data.shape}, but the run was trained on {own.shape}"
        )
    if len(data.values["test"]) < 2:
        raise InputError(
            f"--ood {name} has fewer than two test data, too few to tell them from others"
        )
    if bridge.kind == "none" or (bridge.binarizes and data.representation is Representation.BINARY):
        bridge = replace(bridge, kind="none")
        accepted = support.admits(data.representation)
    else:
        bits = {
            d.representation is Representation.BINARY for d in (data, own)
        }  # no grey levels, if whole numbers
        accepted = own.representation.admits(data.representation) and len(bits) == 1
    if not accepted:
        raise InputError(
            f"--ood {name} holds {data.representation.value}, but the run was trained on {own.name}, which holds "
            f"{own.representation.value}"
        )
    if bridge.units is None or bridge.units.whole or data.units:
        bridge = replace(bridge, units=data.units)  # levels are spelled as these data spell them
    plain = Bridge("none", units=bridge.units)
    largest = max(
        float(plain(part, dtype=torch.float64).max()) for part in chunks(data.values["test"])
    )
    if bridge.kind != "none" and largest > bridge.maximum:
        raise InputError(
            f"--ood {name} holds values up to {largest:g}, but those of the run end at {bridge.maximum:g}: bring both "
            "to one scale"
        )
    split = data.split("test", bridge, dtype=opened.dtype).to(opened.device)
    try:
        as_data(opened.vae.model, split)
    except InputError as error:
        raise InputError(f"--ood {name}: {error}") from error
    return split


def separations(opened: Run, data: Split, options: Any) -> Iterator[tuple[str, Separation, Path]]:
    """For each data set of `options.ood`: its name, its scores beside those of `data`, and a figure of both."""
    from pyro_vae import plots

    given = {
        "steps": options.refine or 100,
        "num_particles": options.num_particles,
        "memory": options.memory * 2**20,
    }
    inside = anomaly_scores(opened.vae, data, opened.split("train").first(TYPICAL), **given)
    for name, split in options.ood.items():
        other = split if options.limit is None else split.first(options.limit)
        scores = anomaly_scores(opened.vae, other, inside.typical, **given)
        found = Separation((f"{opened.data.name} {options.split}", _stem(name)), inside, scores)
        path = subfolder(opened.folder, "figures") / f"ood-{_stem(name)}.png"
        write_atomically(path, plots.separation(found).savefig)
        yield name, found, path
