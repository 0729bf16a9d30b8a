"""`python -m pyro_vae.export RUN`: encoder and decoder of a run as files that work without this package."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.export")  # before anything that takes time

from pyro_vae._cli.options import answer, export_parser

if __name__ == "__main__":
    answer(export_parser())  # before the imports, which take seconds

import inspect
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from pyro_vae import __version__
from pyro_vae._cli.options import EXPORTED, PARTS, run
from pyro_vae._cli.outputs import put_each
from pyro_vae._cli.telling import teller
from pyro_vae._onnx import IN_OTHERS
from pyro_vae.foundation.abstract import alone, running, traced
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.files import subfolder
from pyro_vae.foundation.trust import by_the_command_line
from pyro_vae.graphs import Graph, asked_of, graph_of, inputs_of
from pyro_vae.models.program import formula
from pyro_vae.runs import output_folder, public_name
from pyro_vae.trained import Run, open_run

NEEDED = ("onnx", "onnxscript", "onnxruntime")  # for the format onnx
METADATA = "pyro_vae.json"  # the name in a .pt2 file
LONG = 1000  # operations, among which to look for shorter ones takes minutes
TRIED = (1, 7)  # data at a time, by which a file is compared with the pair
# How far numbers may lie from those of the pair, beside 1 + their size.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class _Named(torch.nn.Module):
    """A graph whose call has the names of its inputs in its signature, as `torch.export` wants it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.pair = graph
        names = [each.name for each in graph.inputs]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD

        def forward(*values: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
            return graph(**dict(zip(names, values, strict=False)), **inputs)  # type: ignore[no-any-return]

        parameters = [inspect.Parameter(name, kind) for name in names]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        self.forward = forward


def exported(graph: Graph) -> ExportedProgram:
    """A graph in PyTorch's own form, for any number of data.

    Raises:
        InputError: where it cannot be written down as one.
    """
    example = inputs_of(graph, 3)
    batch = Dim("batch", min=1, max=2**31 - 1)
    shapes = {name: {0: batch} for name in example}
    try:
        with torch.no_grad(), traced(), running(graph.vae.model, graph.vae.guide):
            return torch.export.export(
                _Named(graph), (), example, dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        raise InputError(
            f"the {graph.part} is no graph that PyTorch can export: {one_line(error)[:200]}"
        ) from error


def save_pt2(program: ExportedProgram, path: Path, about: Mapping[str, Any]) -> None:
    """Write a graph as a .pt2 file, which `torch.export.load` reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of buffers that share their memory
        torch.export.save(program, path, extra_files={METADATA: json.dumps(about)})


def run_pt2(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a .pt2 file gives."""
    with torch.no_grad():
        return torch.export.load(path).module()(**inputs)  # type: ignore[no-any-return]


def save_onnx(program: ExportedProgram, path: Path, about: Mapping[str, Any]) -> None:
    """Write a graph as an .onnx file, with the names of its inputs and outputs.

    Raises:
        InputError: for an operation that ONNX does not have.
    """
    heard = io.StringIO()
    names = [each["name"] for each in about["inputs"]]
    try:
        with redirect_stdout(heard), redirect_stderr(heard), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = program.run_decompositions(IN_OTHERS)
            long = len(plain.graph.nodes) >= LONG
            found = torch.onnx.export(
                plain,
                (),
                input_names=names,
                output_names=[*about["outputs"]],
                dynamo=True,
                verbose=False,
                optimize=not long,
            )
            if long:
                _shorten(found)
    except Exception as error:
        raise InputError(
            f"the {about['part']} has an operation that ONNX does not have here: {_why(error)}"
        ) from error
    assert found is not None
    found.model.metadata_props["pyro_vae"] = json.dumps(about)
    found.save(path)


def _shorten(found: Any) -> None:
    """Compute what depends on no input in a long ONNX graph, and leave its other operations as they are."""
    from onnxscript import optimizer

    optimizer.inline(found.model)
    optimizer.fold_constants(found.model)
    optimizer.remove_unused_nodes(found.model)


def _why(error: BaseException) -> str:
    """The innermost reason of an error of the ONNX exporter, which wraps it in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:200]


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an .onnx file gives."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    made = session.run(names, {name: v.numpy() for name, v in inputs.items()})
    pairs = zip(names, made, strict=True)
    return {name: torch.from_numpy(np.asarray(v)) for name, v in pairs}


SAVE: dict[str, Callable[..., None]] = {"pt2": save_pt2, "onnx": save_onnx}
RUN: dict[str, Callable[..., dict[str, Tensor]]] = {"pt2": run_pt2, "onnx": run_onnx}


def difference(made: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest `|a - b| / (1 + |b|)` over all outputs; infinite where one is nan and the other is not.

    >>> difference({"mean": torch.tensor([2.0])}, {"mean": torch.tensor([1.0])})
    0.5
    """
    largest = 0.0
    for name, value in wanted.items():
        a, b = made[name].double(), value.double()
        if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
            return float("inf")
        apart = (a - b).abs() / (1 + b.abs())
        apart = apart.where(a != b, 0.0)  # of two infinities too
        apart = apart[~b.isnan()].nan_to_num(nan=math.inf, posinf=math.inf)
        largest = max([largest, *apart.tolist()])
    return largest


def write_part(
    graph: Graph, path: Path, opened: Run, program: ExportedProgram, about: Any
) -> float:
    """Write a graph to a file by its ending, and compare what the file gives with what the pair gives.

    Returns:
        The largest difference, see `difference`.

    Raises:
        InputError: where it cannot be written, or does not agree.
    """
    kind = path.suffix[1:]
    SAVE[kind](program, path, about)
    largest = 0.0
    for count in TRIED:
        inputs = inputs_of(graph, count)
        try:
            made = RUN[kind](path, inputs)
        except Exception as error:
            raise InputError(
                f"the {graph.part} was written as {kind} and cannot be run: {one_line(error)[:200]}"
            ) from error
        wanted = asked_of(opened, graph, inputs)
        largest = max(largest, difference(made, wanted))
    if not largest <= TOLERANCE[graph.dtype]:
        raise InputError(
            f"the {graph.part} as {kind} differs from the pair by {largest:.2g} and is not kept"
        )
    return largest


def about_graph(opened: Run, graph: Graph) -> dict[str, Any]:
    """What a file says of itself, in JSON: the formula, its inputs and outputs, the columns, versions."""
    with torch.no_grad(), running(graph.vae.model, graph.vae.guide):
        made = graph(**inputs_of(graph, 1))
    table = opened.table
    columns = [] if table is None else table.to_dicts()
    inputs = [
        {
            "name": each.name,
            "shape": ["batch", *each.shape],
            "dtype": str(each.dtype).removeprefix("torch."),
            "about": each.about,
            **({"categories": list(each.categories)} if each.categories else {}),
        }
        for each in graph.inputs
    ]
    return {
        "part": graph.part,
        "formula": formula(opened.vae.model, opened.vae.guide),
        "spec": opened.spec.to_dict(),
        "data": public_name(opened.request["dataset"]),
        "epoch": opened.epoch,
        "inputs": inputs,
        "outputs": {name: ["batch", *value.shape[1:]] for name, value in made.items()},
        "columns": columns,
        "versions": {
            "pyro_vae": __version__,
            "pyro": pyro.__version__,
            "torch": str(torch.__version__),
        },
    }


def _formats(asked: str | None) -> list[str]:
    """The formats that are asked for; by default those that can be written."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if asked is None:
        return ["pt2"] if lacking else [*EXPORTED]
    formats = [*dict.fromkeys(asked.split(","))]
    if unknown := [name for name in formats if name not in EXPORTED]:
        raise InputError(
            f"--format {unknown[0]!r} is unknown: choose {', '.join(EXPORTED)}, or both as in pt2,onnx"
        )
    if "onnx" in formats and lacking:
        raise InputError(
            f"--format onnx needs the package {lacking[0]}: pip install 'pyro-vae[export]'"
        )
    return formats


@alone()
@by_the_command_line
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = export_parser().parse_args(arguments)
    formats = _formats(options.format)
    parts = PARTS if options.part is None else (options.part,)
    opened = open_run(options.run, checkpoint=options.checkpoint, trust=options.trust)
    pyro.set_rng_seed(options.seed)
    folder = _folder(opened, options.output)
    tell = teller(quiet=options.quiet)
    text = formula(opened.vae.model, opened.vae.guide)
    tell(f"{text}, weights of epoch {opened.epoch}")
    if options.format is None and "onnx" not in formats:
        tell("note: .onnx files need more packages: pip install 'pyro-vae[export]'")

    # Each part in each format, where one that fails costs no other.
    written: list[Path] = []
    failed: list[str] = []
    for part in parts:
        try:
            graph = graph_of(opened, part)
            about, program = about_graph(opened, graph), exported(graph)
        except InputError as error:
            failed.append(str(error))
            continue
        tell(_shape_of(about))
        for kind in formats:
            path = folder / f"{part}.{kind}"
            write = _Writer(opened, graph, program, about)
            made, lost = put_each({path: write})
            written += made
            failed += lost
            if made:
                tell(f"           {path}, at most {write.largest:.2g} from the pair")
    if written:
        print(f"written: {', '.join(map(str, written))}")
    if failed:
        raise InputError("; ".join(failed))


def _folder(opened: Run, asked: str | None) -> Path:
    """Where the files go."""
    if asked is None:
        return subfolder(opened.folder, "export")
    return output_folder("--output", asked)


@dataclass
class _Writer:
    """What writes a graph to a file and compares it; `largest` is the difference, see `write_part`."""

    opened: Run
    graph: Graph
    program: ExportedProgram
    about: dict[str, Any]
    largest: float = 0.0

    def __call__(self, path: Path) -> None:
        parts = (self.graph, path, self.opened, self.program, self.about)
        self.largest = write_part(*parts)


def _shape_of(about: Mapping[str, Any]) -> str:
    """What goes in and what comes out, for a person."""
    given = ", ".join(f"{i['name']} {_size(i['shape'])}" for i in about["inputs"])
    made = ", ".join(f"{name} {_size(s)}" for name, s in about["outputs"].items())
    return f"{about['part']:<11}{given} -> {made}"


def _size(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"


if __name__ == "__main__":
    run("pyro_vae.export", main)
