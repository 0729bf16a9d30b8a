"""Runs on disk: weights and training state in safetensors with a JSON header, without pickle."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae._described import described
from pyro_vae.engine.affine import PRODUCTS, has_onednn, products_of, use_products
from pyro_vae.engine.processes import here
from pyro_vae.engine.skipping import Streams
from pyro_vae.foundation.checks import between, check, shown
from pyro_vae.foundation.commands import command
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.files import Write, write_atomically
from pyro_vae.foundation.reading import reading
from pyro_vae.foundation.sizes import Bounded
from pyro_vae.foundation.trust import trusting
from pyro_vae.inference.averaging import Average
from pyro_vae.inference.epochs import Progress
from pyro_vae.models.conditionals import Moved
from pyro_vae.models.vae import VAE
from pyro_vae.runs import seeds_in
from pyro_vae.spec import Spec, build

FORMAT = 1
# endings of files that are not written
FOREIGN = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".onnx", ".joblib")
HELD = ("order", "best_each", "early_each")  # of `Progress`: tensors, or None
BESIDE = "objective."  # before the names of what an objective learns
CHAINS = ("z", "steps")  # of a guide that keeps chains of the training data
HEADER = {  # what the programs read of it
    "spec": dict,
    "epoch": Annotated[int, between(0, 10**9)],
    "best": float | None,
}


def save_checkpoint(
    path: Path,
    vae: VAE,
    spec: Spec,
    *,
    epoch: int,
    score: float,
    optimizer: Optimizer | None = None,
    progress: Progress | None = None,
    average: Average | None = None,
    best: float | None = None,
    about: Mapping[str, Any] | None = None,
    beside: nn.Module | None = None,
    streams: Sequence[Streams] = (),
    write: Callable[[Path, Write], None] = write_atomically,
) -> None:
    """Write weights, and with `optimizer` and `progress` all that is needed to go on as if nothing had happened.

    Args:
        path: the file, replaced in one move.
        vae: the weights.
        spec: the description that rebuilds them.
        epoch: whole epochs done.
        score: the value that the run's best checkpoint is judged by.
        optimizer: its state, together with
        progress: the state of the training.
        average: of the weights; then it stands in the file in their place, and with `optimizer` and `progress` those
            that training goes on with stand there too.
        best: the best score so far.
        about: what else the header says, by names of its own.
        beside: what the objective learns, which goes on with the training.
        streams: the random streams of all processes, where several train together.
        write: what puts the file in its place.
    """
    own = vae.state_dict(keep_vars=True)
    mean = own if average is None else {k: average.of(v) for k, v in own.items()}
    tensors = {f"model.{k}": v for k, v in mean.items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "spec": spec.to_dict(),
        "epoch": epoch,
        "score": score,
        "best": best,
        "products": products_of(vae.modules()),
        **(about or {}),
    }
    if optimizer is not None and progress is not None:
        state = optimizer.state_dict()
        header["param_groups"] = state["param_groups"]
        header["optimizer"] = {}
        for index, values in state["state"].items():
            tensors |= {
                f"optimizer.{index}.{k}": v
                for k, v in values.items()
                if isinstance(v, Tensor)
            }
            header["optimizer"][str(index)] = {
                k: v for k, v in values.items() if not isinstance(v, Tensor)
            }
        if beside is not None:
            tensors |= {f"{BESIDE}{k}": v for k, v in beside.state_dict().items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        for rank, stream in enumerate(streams):
            tensors |= _random(rank, stream)
        header |= {"processes": len(streams)} if streams else {}
        stands = vars(progress)
        held = {k: v for k, v in stands.items() if k in HELD}
        header["progress"] = {k: v for k, v in stands.items() if k not in held}
        tensors |= {f"progress.{k}": v for k, v in held.items() if v is not None}
        if average is not None and average.steps:
            moving = {k: v for k, v in own.items() if mean[k] is not v}
            tensors |= {f"training.{k}": v for k, v in moving.items()}
            header["averaged"] = average.steps
        if isinstance(vae.guide, Moved):
            tensors |= {f"chains.{k}": v for k, v in vae.guide.training_state().items()}
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    content = to_bytes(tensors, metadata={"pyro_vae": json.dumps(header)})
    write(path, lambda beside: beside.write_bytes(content))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a checkpoint.

    Raises:
        InputError: when the file is missing, damaged, or not a checkpoint of this package.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "pyro_vae" not in metadata:
                raise InputError(f"{path} is not a checkpoint of pyro_vae")
            header = json.loads(metadata["pyro_vae"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping, only its method
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the checkpoint {path} is damaged: {one_line(error)[:200]}"
        ) from error
    if not isinstance(header, dict) or "spec" not in header:
        raise InputError(
            f"the checkpoint {path} is damaged: its header does not describe a VAE"
        )
    if header.get("format") != FORMAT:
        raise InputError(
            f"the checkpoint {path} has format {shown(header.get('format'))}, which this version cannot read"
        )
    try:
        for key, hint in HEADER.items():
            check(key, header.get(key), hint)
    except InputError as error:
        raise InputError(
            f"the checkpoint {path} is damaged: in its header {error}"
        ) from error
    return tensors, header


def load_weights(path: Path) -> tuple[VAE, Spec, dict[str, Any]]:
    """The VAE in a checkpoint, its description and the file's header.

    Nothing is made that takes much more memory than the weights in the file.
    """
    tensors, header = read_checkpoint(path)
    size = sum(v.nbytes for k, v in tensors.items() if k.startswith("model."))
    try:
        with reading(path, "a checkpoint that describes its VAE"):
            spec = Spec.from_dict(header["spec"])
            with Bounded(
                "its VAE", limit=4 * size + 2**26, most=1000 + 20 * len(tensors)
            ):
                vae = build(spec)
    except InputError as error:
        raise InputError(f"the checkpoint {path} cannot be used: {error}") from error
    if any(
        v.dtype is torch.float64 for k, v in tensors.items() if k.startswith("model.")
    ):
        vae.double()
    _put_weights(vae, tensors, path)
    if header.get("products") in PRODUCTS and (
        header["products"] == "torch" or has_onednn()
    ):
        use_products(vae, header["products"])
    return vae, spec, header


def _put_weights(vae: VAE, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        vae.load_state_dict(
            {
                k.removeprefix("model."): v
                for k, v in tensors.items()
                if k.startswith("model.")
            }
        )
    except RuntimeError as error:
        raise InputError(
            f"the weights in {path} do not fit the VAE it describes: {str(error).splitlines()[-1].strip()[:200]}"
        ) from error
    for name, tensor in vae.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"the weights in {path} hold values that are not finite, in {name}; train anew, or take another "
                "--checkpoint"
            )


def restore_training(
    path: Path,
    vae: VAE,
    optimizer: Optimizer,
    average: Average | None = None,
    beside: nn.Module | None = None,
) -> tuple[Progress, dict[str, Any]]:
    """Put weights, optimizer and random state back as they were when `path` was saved; the progress and the header.

    With an `average`, the one that followed the weights goes on in it; with what an objective learns `beside` the pair,
    that.
    """
    tensors, header = read_checkpoint(path)
    if "progress" not in header:
        raise InputError(f"{path} holds weights only and cannot be resumed")
    _put_weights(vae, tensors, path)
    try:
        _put_state(optimizer, tensors, header)
        if average is not None:
            _put_average(average, vae, tensors, header)
        if beside is not None:
            own = {k: v for k, v in tensors.items() if k.startswith(BESIDE)}
            beside.load_state_dict({k.removeprefix(BESIDE): v for k, v in own.items()})
        chains = {k: tensors[f"chains.{k}"] for k in CHAINS if f"chains.{k}" in tensors}
        if isinstance(vae.guide, Moved) and chains:
            vae.guide.put_training_state(chains)
        values = {**header["progress"], "totals": tuple(header["progress"]["totals"])}
        values |= {k: tensors.get(f"progress.{k}") for k in HELD}
        progress = Progress(**values)
        return progress, header
    except Exception as error:
        raise InputError(
            f"the training state in {path} is damaged: {type(error).__name__} {one_line(error)[:200]}"
        ) from error


def _put_state(
    optimizer: Optimizer, tensors: dict[str, Tensor], header: dict[str, Any]
) -> None:
    """Optimizer and random streams as the checkpoint has them."""
    state: dict[int, dict[str, Any]] = {
        int(i): dict(values) for i, values in header["optimizer"].items()
    }
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state[int(index)][name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": header["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    _put_own_stream(tensors, header)


def _random(rank: int, stream: Streams) -> dict[str, Tensor]:
    """The random stream of one of several processes, by names."""
    named = {"cpu": stream.cpu, "cuda": stream.cuda}
    return {f"random.{rank}.{k}": v for k, v in named.items() if v is not None}


def _put_own_stream(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Of several processes, let each have the stream that it had, or a new one where there were not as many."""
    rank, world = here().rank, here().world
    if rank == 0:
        return
    if header.get("processes", 1) != world:
        stands = header["progress"]
        here().own_stream(world, header["epoch"], int(stands["position"]))
        return
    cuda = tensors.get(f"random.{rank}.cuda")
    cuda = cuda if torch.cuda.is_available() else None
    Streams(tensors[f"random.{rank}.cpu"], cuda).put()


@torch.no_grad()
def _put_average(
    average: Average, vae: VAE, tensors: dict[str, Tensor], header: dict[str, Any]
) -> None:
    """Let the weights, which are the average now, be its values, and those that training goes on with themselves."""
    state = vae.state_dict(keep_vars=True)
    moving = {
        v: tensors[f"training.{k}"]
        for k, v in state.items()
        if f"training.{k}" in tensors
    }
    average.take_in(list(moving))
    average.steps = int(header.get("averaged", 0))
    for weights, own in moving.items():
        weights.copy_(own)


def is_older(path: Path, weights: Path) -> bool:
    """Whether a file that is made of some weights is not there, or was written before them."""
    if not path.is_file():
        return True
    return weights.is_file() and path.stat().st_mtime_ns < weights.stat().st_mtime_ns


def checkpoint_path(run: str | Path, which: str = "best") -> Path:
    """The file of a run's `'best'` or `'last'` checkpoint; a run that has no best one yet gives its last."""
    folder = Path(run)
    if folder.is_file():
        raise InputError(
            f"{folder} is a file, and a run is a folder that training made"
        )
    if not folder.is_dir():
        raise InputError(
            f"the run {folder} does not exist; make one with {command('train', '--output', folder)}"
        )
    if which not in ("best", "last"):
        raise InputError(f"checkpoint={which!r} must be 'best' or 'last'")
    path = folder / f"{which}.safetensors"
    if (
        which == "best"
        and not path.is_file()
        and (folder / "last.safetensors").is_file()
    ):
        return folder / "last.safetensors"
    if not path.is_file() and (runs := seeds_in(folder)):
        raise InputError(
            f"{folder} holds the runs of several seeds: name one of them, such as {next(iter(runs.values()))}"
        )
    if not path.is_file() and not (folder / "config.toml").is_file():
        raise InputError(
            f"{folder} holds no run: it has no config.toml and no {which}.safetensors"
        )
    return path


def load(
    run: str | Path,
    *,
    checkpoint: str = "best",
    device: str | torch.device = "cpu",
    trust: bool = False,
) -> VAE:
    """The trained VAE of a run folder or a checkpoint file, ready to evaluate.

    Args:
        run: the folder that `python -m pyro_vae.train` made, or a `.safetensors` file of it or of `save`.
        checkpoint: `'best'` by validation ELBO, or `'last'`; of a folder.
        device: where to put it.
        trust: run the code of other modules that the run names for its members, such as your own.

    Raises:
        InputError: when there is no such run, when its checkpoint is damaged or names code
            that is not trusted, or when there is no such device.
    """
    path = Path(run)
    if path.suffix != ".safetensors" or path.is_dir():
        path = checkpoint_path(run, checkpoint)
    with trusting(None if trust else ()):
        vae, _, _ = load_weights(path)
    try:
        return vae.to(device).eval()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device={str(device)!r} is not available here ({one_line(error)}); device='cpu' always is"
        ) from error


def save(vae: VAE, path: str | Path, *, spec: Spec | None = None) -> None:
    """Write a VAE that was trained in Python so that `load` reads it back: its `Spec` and its weights.

    Args:
        vae: made by `build`, or put together from members of this package, by whatever names.
        path: a file that ends in `.safetensors`, which is replaced, or a new folder.
        spec: what `build` would make it from, where that cannot be read from its parts.

    Raises:
        InputError: when the place cannot be written, or when no `Spec` describes the VAE.

    >>> import tempfile
    >>> from pyro_vae import MLP, Bernoulli, FullRank, StandardNormal
    >>> made = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), FullRank(MLP((4,)), 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(made, f"{folder}/mine.safetensors")
    ...     type(load(f"{folder}/mine.safetensors").guide).__name__
    'FullRank'
    """
    file = Path(path)
    if file.suffix in FOREIGN:
        raise InputError(
            f"{file} must end in .safetensors, or be a new folder: other kinds of files are not written"
        )
    if file.suffix != ".safetensors":
        if file.exists() and not (file.is_dir() and not any(file.iterdir())):
            raise InputError(
                f"{file} is there already; name a new folder, or a file that ends in .safetensors"
            )
        file /= "best.safetensors"
    elif not file.parent.is_dir():
        raise InputError(f"the folder {file.parent} does not exist")
    elif file.is_dir():
        raise InputError(f"{file} is a folder; name a file")
    spec, copy = described(vae, spec)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, copy, spec, epoch=0, score=math.nan)
