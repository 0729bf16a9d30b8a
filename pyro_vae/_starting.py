"""Before the first step: data are held against a pair, and its weights start from them."""

import math
from typing import Any

import torch

from pyro_vae.data import Bridge, Data, DataSet, Split, evenly
from pyro_vae.data.bridges import FieldsBridge
from pyro_vae.data.inputs import SAMPLE, fields_of
from pyro_vae.data.representation import Representation
from pyro_vae.data.several import FieldSet
from pyro_vae.data.streams import chunks
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.vae import VAE


def parts_of(
    data: DataSet, bridge: Bridge, vae: VAE
) -> list[tuple[DataSet, Bridge, Any]]:
    """Each field of the data with its bridge and likelihood; the data themselves, where they are one."""
    likelihood: Any = vae.model.likelihood
    if not isinstance(data, FieldSet) or not isinstance(bridge, FieldsBridge):
        return [(data, bridge, likelihood)]
    each = data.parts.values(), bridge.parts, likelihood.members
    return list(zip(*each, strict=True))


def check_values(
    data: DataSet, bridge: Bridge, likelihood: Any, dtype: torch.dtype
) -> None:
    """Raise `InputError` unless the likelihood accepts all values, and `dtype` holds them."""
    if not bridge.plain:
        return  # the other bridges keep to what they promise
    name = str(dtype).removeprefix("torch.")
    whole = _whole(data)
    for split, values in data.values.items():
        done = 0
        for part in chunks(values):
            x = bridge(part, dtype=dtype)
            lost = (~x.isfinite() & ~part.isnan()).flatten(1).any(1)
            if lost.any():
                row = data.rows[split][done + int(lost.nonzero()[0])]
                raise InputError(
                    f"row {row} (counted from 0) of {data.name} holds a value that is too large for {name} beside the "
                    "others: look at that row, or add --precision float64"
                )
            exact = bridge(part, dtype=torch.float64)
            rounded = (x.double() != exact) & whole & ~part.isnan()
            if rounded.any():
                row = data.rows[split][done + int(rounded.nonzero()[0, 0])]
                raise InputError(
                    f"row {row} (counted from 0) of {data.name} holds the whole number {int(part[rounded][0]):,}, "
                    f"which {name} rounds: add --precision float64"
                )
            likelihood.check(likelihood.filled(x) if data.missing else x)
            done += len(part)


def _whole(data: DataSet) -> torch.Tensor:
    """Which elements of a datum are whole numbers that have to be exact; one number where all are alike."""
    if data.schema is not None:
        return torch.tensor(
            [c.kind in ("count", "levels") for c in data.schema.columns]
        )
    counted = data.representation in (Representation.COUNTS, Representation.LEVELS)
    return torch.tensor(counted)


def start(
    vae: VAE, data: DataSet, bridge: Bridge, train: Split | Data, device: torch.device
) -> None:
    """Start the weights from the training data, and tell the model in which units x is counted."""
    x, c = fields_of(train)
    mean, std = x.moments()
    own_scales = (Representation.REAL, Representation.MIXED)
    wanted, looked_at = vae.model.prior.examples, vae.model.likelihood.looked_at
    given: Any = (
        None if c is None else train.take(evenly(SAMPLE, len(train))).to(device)[:]
    )
    vae.initialise(
        mean.to(device),
        std.to(device),
        standardise=bridge.result(data.representation) in own_scales,
        examples=train[evenly(wanted, len(train))] if wanted else None,
        given=given,
        some=x[evenly(looked_at, len(x))].to(device) if looked_at else None,
    )
    elements, missing = math.prod(data.shape), vae.model.likelihood.missing
    vae.model.count_in(
        bridge.log_units(data.shape) if missing else bridge.log_unit(elements)
    )
    floors = data.floors(bridge)
    if floors is not None:
        vae.model.likelihood.keep_above(floors)
    data.notes = (*data.notes, *data.remarks(bridge))
