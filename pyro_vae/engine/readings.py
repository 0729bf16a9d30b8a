"""What a function that is traced asks of its tensors, and what a graph assumes from the answers."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pyro.util
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.distributions import constraints
from torch.overrides import TorchFunctionMode

from pyro_vae.engine.recording import unrecorded

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)
DECIDES = "a tensor's value decides what Python does next"


class ReadingError(Exception):
    """Python does what no graph can follow; the message is the reason, in words."""


class Readings(TorchFunctionMode):
    """Answers what Python asks of tensors while a function is traced, and holds the answers as assumptions.

    A graph has one road where Python has several, and knows no value. A truth or a whole number that Python reads, to
    take a branch, to size a loop, to validate arguments, gets the answer that holds now; that it holds in a later call
    is an assumption, a tensor of the graph. A real number that is read (`loss.item()`) stays a tensor without gradient.

    Attributes:
        assumptions: tensors, true where the answers of this call are right.
    """

    def __init__(self) -> None:
        super().__init__()
        self.assumptions: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        reading = READINGS.get(function)
        if reading is None:
            return function(*args, **(kwargs or {}))
        return reading(self, *args, **(kwargs or {}))

    def holds(self) -> Tensor | None:
        """Whether all assumptions hold, a tensor; `None` where nothing was assumed."""
        if not self.assumptions:
            return None
        assumptions = [
            detach_provenance(a).reshape(()).bool() for a in self.assumptions
        ]
        return torch.stack(assumptions).all()

    def whole(self, tensor: Tensor) -> Any:
        """The value of one truth or whole number, which is assumed to stay."""
        if tensor.is_floating_point() or tensor.is_complex():
            raise ReadingError(f"{DECIDES} (float() of a tensor)")
        value = read(tensor)
        if tensor.dtype == torch.bool:
            self.assumptions.append(tensor.detach() if value else ~tensor.detach())
        else:
            self.assumptions.append(tensor.detach() == value)
        return value

    def values(self, tensor: Tensor) -> tuple[Any, Tensor]:
        """All values of a tensor, and a constant of the same values: they are assumed to stay."""
        found = read(tensor)
        now = torch.tensor(found, dtype=tensor.dtype, device=tensor.device)
        self.assumptions.append((tensor.detach() == now).all())
        return found, now

    def places(self, mask: Tensor) -> tuple[Tensor, ...]:
        """Where a mask is true, an index for each dimension; the mask is assumed to stay."""
        with unrecorded():
            now = mask.detach().clone()
            places = now.nonzero(as_tuple=True)
        self.assumptions.append((mask.detach() == now).all())
        return places


def read(tensor: Tensor) -> Any:
    """The values of a tensor, behind the back of the tracer."""
    with unrecorded():
        return tensor.detach().tolist() if tensor.dim() else tensor.detach().item()


def _truth(readings: Readings, tensor: Tensor) -> bool:
    asking = sys._getframe(2)
    if _is_dice(asking):
        return False  # take the road that masks, whether or not a probability is zero
    if _is_warning(asking):
        return False  # the numbers that come out are held to be finite
    if _is_check_of_reals(asking):
        return True  # the same: a number that is none makes the loss none
    if tensor.is_floating_point():
        tensor = tensor != 0
    return bool(readings.whole(tensor.reshape(())))


def _number(readings: Readings, tensor: Tensor) -> int:
    if tensor.is_floating_point():
        tensor = tensor.detach().trunc().long()  # as int() does
    return int(readings.whole(tensor.reshape(())))


def _real(readings: Readings, tensor: Tensor) -> float:
    if tensor.is_floating_point():
        raise ReadingError(f"{DECIDES} (float() of a tensor)")
    return float(readings.whole(tensor.reshape(())))


def _item(readings: Readings, tensor: Tensor) -> Any:
    if tensor.is_floating_point():
        return tensor.detach().reshape(())
    return readings.whole(tensor.reshape(()))


def _list(readings: Readings, tensor: Tensor) -> Any:
    if tensor.is_floating_point() or tensor.is_complex():
        raise ReadingError(f"{DECIDES} (tolist() of a tensor)")
    return readings.values(tensor)[0]


def _equal(readings: Readings, one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and _truth(readings, (one == other).all())


def _close(
    readings: Readings, one: Tensor, other: Tensor, *args: Any, **kwargs: Any
) -> bool:
    return _truth(readings, torch.isclose(one, other, *args, **kwargs).all())


def _array(readings: Readings, *_: Any, **__: Any) -> Any:
    raise ReadingError(f"{DECIDES} (a tensor became a NumPy array)")


def _selected(readings: Readings, tensor: Tensor, mask: Tensor) -> Tensor:
    if _is_dice(sys._getframe(2)):  # the sum is that of the selection
        return torch.where(mask, tensor, torch.zeros_like(tensor))
    tensor, mask = torch.broadcast_tensors(tensor, mask)
    return tensor[readings.places(mask)]


def _indexed(readings: Readings, tensor: Tensor, index: Any) -> Tensor:
    """Entries by an index in which masks stand for the places where they are true, and a number is not read."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(_is_mask(part) or _is_number(part) for part in parts):
        return torch.Tensor.__getitem__(tensor, index)
    tensor, parts = _by_numbers(tensor, parts)
    places: list[Any] = []
    for part in parts:
        places += readings.places(part) if _is_mask(part) and part.dim() > 0 else [part]
    return torch.Tensor.__getitem__(tensor, tuple(places))


def _by_numbers(
    tensor: Tensor, parts: tuple[Any, ...]
) -> tuple[Tensor, tuple[Any, ...]]:
    """Take the one entry that each whole number in a tensor names, a copy, and put 0 in the place of the number."""
    left: list[Any] = []
    dim = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            dim = tensor.dim() - sum(map(_indexes, parts[i + 1 :]))
        if _is_number(part):
            entry = torch.where(part < 0, part + tensor.shape[dim], part)
            tensor = tensor.index_select(dim, entry.reshape(1).long())
        left.append(0 if _is_number(part) else part)
        dim += _indexes(part)
    return tensor, tuple(left)


def _indexes(part: Any) -> int:
    """How many dimensions a part of an index is about."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.dim() if _is_mask(part) else 1


def _is_mask(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dtype == torch.bool


def _is_number(part: Any) -> bool:
    """Whether a part of an index is one whole number in a tensor."""
    return isinstance(part, Tensor) and part.dim() == 0 and part.dtype in WHOLE


def _nonzero(readings: Readings, tensor: Tensor, *, as_tuple: bool = False) -> Any:
    places = readings.places(tensor != 0)
    return places if as_tuple else torch.stack(places, dim=-1)


def _backward(
    readings: Readings,
    tensor: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    inputs: Any = None,
) -> None:
    """Like `Tensor.backward`, but for what listens to gradients on the way, whose questions are answered too."""
    gradient = torch.ones_like(tensor) if gradient is None else gradient
    keep = create_graph if retain_graph is None else retain_graph
    with readings:
        _engine_run_backward(
            (tensor,),
            (gradient,),
            keep,
            create_graph,
            () if inputs is None else tuple(inputs),
            allow_unreachable=True,
            accumulate_grad=True,
        )


def _grad(  # noqa: PLR0917  # the arguments of torch.autograd.grad
    readings: Readings,
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    allow_unused: bool = False,
    **others: Any,
) -> Any:
    """Like `torch.autograd.grad`, but for what listens to gradients on the way."""
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    rare = others.get("is_grads_batched") or others.get("materialize_grads")
    if rare or grad_outputs is not None:
        options = {"allow_unused": allow_unused, **others}
        return torch.autograd.grad(
            outputs, inputs, grad_outputs, retain_graph, create_graph, **options
        )
    keep = create_graph if retain_graph is None else retain_graph
    ones = tuple(torch.ones_like(output) for output in outputs)
    with readings:
        return _engine_run_backward(
            outputs,
            ones,
            keep,
            create_graph,
            inputs,
            allow_unused,
            accumulate_grad=False,
        )


def _is_dice(frame: FrameType) -> bool:
    """Whether Pyro's sum over enumerated values asks, which leaves out those of no probability."""
    code = frame.f_code
    return code.co_name == "compute_expectation" and code.co_filename.endswith(
        "infer/util.py"
    )


def _is_warning(frame: FrameType) -> bool:
    """Whether Pyro asks in order to warn of numbers that are not finite."""
    code = frame.f_code
    return (
        code.co_name in ("warn_if_nan", "warn_if_inf")
        and code.co_filename == pyro.util.__file__
    )


def _is_check_of_reals(frame: FrameType) -> bool:
    """Whether a distribution validates that numbers are real, which only nan is not."""
    if frame.f_code.co_filename != torch.distributions.distribution.__file__:
        return False
    constraint = frame.f_locals.get("constraint", frame.f_locals.get("support"))
    while isinstance(constraint, type(constraints.real_vector)):
        constraint = constraint.base_constraint
    return constraint is constraints.real


def _unasked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of data that reads whole numbers among its further arguments without asking for them."""

    def reading(readings: Readings, data: Any, *args: Any, **kwargs: Any) -> Any:
        def assumed(value: Any) -> Any:
            whole = isinstance(value, Tensor) and not value.is_floating_point()
            return readings.values(value)[1] if whole else value

        named = {name: assumed(value) for name, value in kwargs.items()}
        return function(data, *map(assumed, args), **named)

    return reading


# Packed sequences have their lengths beside them; that of a sequence which is not packed is its shape.
UNASKED = (
    torch._VF._pack_padded_sequence,
    torch._VF._pad_packed_sequence,
    torch._VF.gru,
    torch._VF.lstm,
    torch._VF.rnn_tanh,
    torch._VF.rnn_relu,
    torch.tensor_split,
    torch.Tensor.tensor_split,
)

READINGS: dict[Any, Callable[..., Any]] = {
    **{function: _unasked(function) for function in UNASKED},
    torch.Tensor.__bool__: _truth,
    torch.Tensor.__int__: _number,
    torch.Tensor.__index__: _number,
    torch.Tensor.__float__: _real,
    torch.Tensor.item: _item,
    torch.Tensor.tolist: _list,
    torch.Tensor.numpy: _array,
    torch.Tensor.__array__: _array,
    torch.Tensor.masked_select: _selected,
    torch.masked_select: _selected,
    torch.Tensor.nonzero: _nonzero,
    torch.nonzero: _nonzero,
    torch.Tensor.__getitem__: _indexed,
    torch.Tensor.backward: _backward,
    torch.autograd.grad: _grad,
    torch.equal: _equal,
    torch.Tensor.equal: _equal,
    torch.allclose: _close,
    torch.Tensor.allclose: _close,
}
