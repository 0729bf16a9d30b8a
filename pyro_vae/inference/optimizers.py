"""The optimizers that a run can name, and what their arguments can be."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from torch.optim import Optimizer

from pyro_vae.engine.adam import AdamNormGrad
from pyro_vae.foundation.checks import NotNegative, Positive, between, share
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.inference.em import EM, Decay

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "EM": EM,
    "Adagrad": torch.optim.Adagrad,
    "Adam": torch.optim.Adam,
    "AdamNormGrad": AdamNormGrad,
    "Adamax": torch.optim.Adamax,
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
    "SGD": torch.optim.SGD,
}

Share = Annotated[float, share()]

# By name, whichever optimizer has it. Those that are not here are no choice: `maximize` would maximise the loss,
# `capturable` and `differentiable` are for programs that look into the step.
ARGUMENTS: dict[str, Any] = {
    "alpha": Share,
    "amsgrad": bool,
    "betas": tuple[Share, Share],
    "centered": bool,
    "decay": Decay,
    "dampening": Annotated[float, between(0, 1)],
    "decoupled_weight_decay": bool,
    "each": Literal["epoch", "batch"],
    "eps": Positive,
    "foreach": bool | None,
    "fused": bool | None,
    "initial_accumulator_value": NotNegative,
    "lr_decay": NotNegative,
    "momentum": Share,
    "nesterov": bool,
    "weight_decay": NotNegative,
}


def try_out(make: Callable[..., Optimizer], name: str) -> None:
    """Take three steps with a parameter of two numbers.

    Raises:
        InputError: when the optimizer cannot be made, or its steps are not finite.
    """
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    try:
        optimizer = make([parameter], lr=1e-3)
        for _ in range(3):
            optimizer.step()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"--optimizer {name} cannot be used: {one_line(error)}"
        ) from error
    if not bool(parameter.isfinite().all()):
        raise InputError(f"--optimizer {name} cannot be used: its steps are not finite")
