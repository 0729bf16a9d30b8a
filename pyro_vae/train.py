"""`python -m pyro_vae.train`: from options to a run folder with a trained VAE."""

from pyro_vae._config import make_parser
from pyro_vae._options import answer

if __name__ == "__main__":
    answer(make_parser())  # before the imports, which take seconds

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyro
import tomli_w
import torch
from torch import nn

from pyro_vae import __version__
from pyro_vae._config import COMPILE, STREAM, Config, flag, resolve
from pyro_vae._display import Display, signals
from pyro_vae._errors import InputError
from pyro_vae._files import subfolder, write_atomically
from pyro_vae._options import run
from pyro_vae._program import pick_device
from pyro_vae._remedies import remedy
from pyro_vae.build import AXES, Member, Spec, build, parse, parse_optimizer, parse_schedule
from pyro_vae.checkpoint import load_weights, restore_training, save_checkpoint
from pyro_vae.data import EPOCHS, NAMED, Bridge, DataSet, Split, load_data, spread
from pyro_vae.data.files import Request
from pyro_vae.data.fingerprint import check_same, fingerprint
from pyro_vae.data.streams import chunks
from pyro_vae.data.usual import usual_likelihood
from pyro_vae.inference.epochs import Epoch, Progress
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.watch import Remark
from pyro_vae.models.likelihoods.continuous import LocationScale
from pyro_vae.models.representation import Representation
from pyro_vae.models.vae import VAE
from pyro_vae.networks.products import use_products, usual_products
from pyro_vae.runs import clear, is_run, portable, read_resolved, require_data


@dataclass
class Job:
    """Everything that a configuration resolves to before the first step."""

    config: Config
    spec: Spec
    data: DataSet
    bridge: Bridge
    vae: VAE
    svi: SVI
    optimizer: Member
    schedule: Any
    device: torch.device
    train: Split
    validation: Split | None
    reason: str | None  # why the likelihood is what it is, where none was asked for
    fingerprint: dict[str, str]
    notes: list[str]  # about the data of a run that goes on


def prepare(config: Config, resumed: Path | None = None) -> Job:
    """Load the data and build the pair; every mistake in the options is found here.

    Args:
        config: the options.
        resumed: the run folder that they are of, whose data must be the same as they were.
    """
    for name, low in (("batch_size", 1), ("epochs", 1), ("patience", 1), ("learning_rate", 0)):
        value = getattr(config, name)
        if value is not None and (
            not math.isfinite(value) or value < low or (low == 0 and value == 0)
        ):
            raise InputError(
                f"{flag(name)} {value} must be {'positive and finite' if low == 0 else f'at least {low}'}"
            )
    if config.epochs is None:
        config = replace(config, epochs=EPOCHS.get(config.dataset, 100))
    device = pick_device(config.device)
    given = {axis: getattr(config, axis) for axis in AXES}
    members: dict[str, Any] = {a: str(parse(a, v)) for a, v in given.items() if v is not None}
    config = replace(config, **members)
    optimizer, schedule = (
        parse_optimizer(config.optimizer, device.type),
        parse_schedule(config.schedule),
    )
    if resumed is not None:
        require_data(config.dataset, resumed)
    request = {f.name: getattr(config, f.name) for f in fields(Request)}
    data = load_data(**{**request, "stream": STREAM[config.stream]})
    known, notes = fingerprint(data), []
    if resumed is not None:
        notes = check_same(resumed, read_resolved(resumed / "config.toml"), data, known)
    config, reason = _with_likelihood(config, data)
    assert config.likelihood is not None
    parts = (config.prior, config.network, config.likelihood, config.guide)
    spec = Spec(data.shape, config.latent_dim, *parts)
    if not 0 <= config.seed < 2**32:
        raise InputError(f"--seed {config.seed} must lie between 0 and 2^32 - 1")
    pyro.set_rng_seed(config.seed)
    vae = build(spec)
    products = usual_products() if config.products == "auto" else config.products
    use_products(vae, products)
    config = replace(config, products=products)
    bridge = data.bridge(
        vae.model.likelihood,
        binarize=config.binarize,
        dequantize=config.dequantize,
        scale=config.scale,
    )
    dtype = (
        torch.float64 if config.precision == "float64" else torch.float32
    )  # bf16 is of the networks alone
    train = data.split("train", bridge, dtype=dtype)
    validation = data.split("validation", bridge, dtype=dtype)
    _check_values(data, bridge, vae, dtype)
    vae.to(device=device, dtype=dtype)
    _start(vae, data, bridge, train, device)
    autocast = torch.bfloat16 if config.precision == "bf16" else None

    def make(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        return optimizer(parameters, lr=config.learning_rate)

    objective = parse("objective", config.objective)()
    if not isinstance(objective.num_particles, int) or objective.num_particles < 1:
        raise InputError(
            f"--objective {config.objective}: num_particles must be a whole number of at least 1"
        )
    svi = SVI(
        vae.model,
        vae.guide,
        make,
        objective,
        reduction="mean",
        autocast=autocast,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
    svi.check(train[torch.arange(min(2, len(train)))].to(device))
    if isinstance(objective, Objective):
        objective.prepare(len(train), config.epochs or 0)
    return Job(
        config,
        spec,
        data,
        bridge,
        vae,
        svi,
        optimizer,
        schedule,
        device,
        train.to(device),
        validation.to(device) if len(validation) else None,
        reason,
        known,
        notes,
    )


def _check_values(data: DataSet, bridge: Bridge, vae: VAE, dtype: torch.dtype) -> None:
    """Raise `InputError` unless the likelihood accepts all values, and `dtype` holds them."""
    if bridge.kind != "none":
        return  # the other bridges keep to what they promise
    for split, values in data.values.items():
        done = 0
        for part in chunks(values):
            x = bridge(part, dtype=dtype)
            lost = (~x.isfinite()).flatten(1).any(1)
            if lost.any():
                row = data.rows[split][done + int(lost.nonzero()[0])]
                raise InputError(
                    f"row {row} (counted from 0) of {data.name} holds a value that is too large for "
                    f"{str(dtype).removeprefix('torch.')} beside the others: look at that row, or add --precision "
                    "float64"
                )
            vae.model.likelihood.check(x)
            done += len(part)


def _start(vae: VAE, data: DataSet, bridge: Bridge, train: Split, device: torch.device) -> None:
    """Start the weights from the training data, and tell the model in which units x is counted."""
    mean, std = train.moments()
    real = bridge.result(data.representation) is Representation.REAL
    wanted = vae.model.prior.examples
    examples = train[spread(wanted, len(train))] if wanted else None
    vae.initialise(mean.to(device), std.to(device), standardise=real, examples=examples)
    vae.model.count_in(bridge.log_unit(math.prod(data.shape)))
    floors = data.floors(bridge)
    if floors is not None and isinstance(vae.model.likelihood, LocationScale):
        vae.model.likelihood.keep_above(floors)
    dtype = next(vae.parameters()).dtype
    data.notes = (*data.notes, *data.remarks(bridge, dtype))


def _with_likelihood(config: Config, data: DataSet) -> tuple[Config, str | None]:
    """The configuration with a likelihood: the one asked for, or the usual one of the data and why it is that."""
    if config.likelihood is not None:
        return config, None
    usual, reason = usual_likelihood(
        data, bits=config.binarize is not None, density=config.dequantize or config.scale
    )
    return replace(config, likelihood=usual), reason


def describe(job: Job) -> str:
    """What is about to be trained, for a person."""
    sizes = ", ".join(f"{len(v)} {split}" for split, v in job.data.values.items())
    config, model = job.config, job.vae.model
    count = {
        name: sum(p.numel() for p in m.parameters())
        for name, m in (("model", model), ("guide", job.vae.guide))
    }
    return "\n".join(
        [
            f"data       {job.data.name} {list(job.data.shape)}: {sizes} ({job.data.source})",
            *([f"on disk    {job.data.streamed}"] if job.data.streamed else []),
            *(f"read       {note}" for note in (*job.data.notes, *job.notes)),
            f"seen as    {job.bridge.result(job.data.representation).value}, {job.bridge}",
            *([f"likelihood {config.likelihood}, because {job.reason}"] if job.reason else []),
            f"model      {config.prior}, {config.network}, {config.likelihood}: {count['model']:,} parameters",
            f"guide      {config.guide}, latent dimension {config.latent_dim}: {count['guide']:,} parameters",
            f"objective  {config.objective}, {job.optimizer} at {config.learning_rate:g}, {config.schedule}",
        ]
    )


def _bound(vae: VAE) -> str:
    """What `E_q[log p(x, z) - log q(z|x)]` is called: under a guide that is a point it is no bound."""
    return "ELBO" if vae.guide.has_density else "log p(x, z)"


def _judged_by(job: Job) -> str:
    """What the best epoch is chosen by."""
    objective = job.svi.loss
    own = isinstance(objective, Objective) and objective.tightens
    return objective.judged_by if own else _bound(job.vae)


def _shapes(vae: VAE, shape: tuple[int, ...]) -> str:
    """Every layer that computes, with the shape of what it returns for one datum."""
    lines: list[str] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if isinstance(out, torch.Tensor):
                count = sum(p.numel() for p in module.parameters())
                lines.append(
                    f"  {name:32}{type(module).__name__:18}{list(out.shape)!s:24}{count:>12,}"
                )

        return hook

    leaves = [(n, m) for n, m in vae.named_modules() if n and not list(m.children())]
    handles = [m.register_forward_hook(note(n)) for n, m in leaves]
    parameter = next(vae.parameters())
    training = vae.training
    vae.eval()(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
    vae.train(training)
    for handle in handles:
        handle.remove()
    return "\n".join(["layers     name, kind, shape for one datum, parameters", *lines])


def _toml(job: Job, folder: Path) -> str:
    """The run's configuration, with what it resolved to in a table of its own; paths are written from `folder` on."""
    given = {f.name: getattr(job.config, f.name) for f in fields(Config)}
    places = ["data_dir"] if job.config.dataset in NAMED else ["data_dir", "dataset"]
    if given["labels"] is not None and Path(given["labels"]).expanduser().is_file():
        places.append("labels")
    for name in places:
        given[name] = None if given[name] is None else portable(given[name], folder)
    kept = {k: v for k, v in given.items() if v is not None and k not in ("output", "overwrite")}
    source = Path(job.data.source)
    resolved = {
        "version": __version__,
        "source": portable(source, folder) if source.exists() else job.data.source,
        "shape": list(job.data.shape),
        "sizes": {split: len(v) for split, v in job.data.values.items()},
        "fingerprint": job.fingerprint,
        "stored": job.data.representation.name,
        "representation": job.bridge.result(job.data.representation).name,
        **job.bridge.to_dict(),
    }
    return tomli_w.dumps({**kept, "resolved": resolved})


def _folder(config: Config) -> Path:
    """The run folder, made and found writable."""
    if config.output is not None:
        folder = Path(config.output)
        ours = is_run(folder)
        if ours and not config.overwrite:
            raise InputError(
                f"{folder} holds a run already: go on with --resume {folder}, name another --output, or add --overwrite"
            )
        if folder.is_dir() and not ours and any(folder.iterdir()):
            raise InputError(
                f"{folder} holds other files and no run of this package; name an empty or new folder as --output"
            )
        clear(folder)
    else:
        likelihood = (config.likelihood or "").partition("(")[0].rpartition(":")[2].lower()
        stem = f"{Path(config.dataset).stem}-{likelihood}"
        taken = (Path("runs") / (stem + (f"-{i}" if i > 1 else "")) for i in range(1, 10**6))
        folder = next(f for f in taken if not f.exists())
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    return folder


def _read_metrics(path: Path, epochs: int) -> list[dict[str, float]]:
    """The rows of the first `epochs` epochs; anything later, or cut off by a kill, is dropped."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [
            r
            for r in csv.DictReader(file)
            if None not in r.values() and (r["epoch"] or "").isdigit()
        ]
    return [{k: float(v) for k, v in row.items()} for row in rows if int(row["epoch"]) <= epochs]


def _write_metrics(path: Path, rows: Sequence[dict[str, float]]) -> None:
    def write(beside: Path) -> None:
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, Epoch._fields, restval="nan")
            writer.writeheader()
            writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)

    write_atomically(path, write)


def _tensorboard(config: Config, folder: Path) -> Any:
    if config.log != "tensorboard":
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--log tensorboard needs the package tensorboard: pip install 'pyro-vae[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"))


def train(job: Job, folder: Path, *, resume: bool = False) -> bool:
    """Train `job` and keep `folder` up to date after each epoch; whether all epochs were done.

    Each file is replaced in one move, so that a kill loses the epoch under way and nothing else.
    """
    config, epochs = job.config, job.config.epochs
    assert epochs is not None
    progress = Progress()
    last, metrics = folder / "last.safetensors", folder / "metrics.csv"
    if resume:
        if not last.is_file():
            raise InputError(
                f"{folder} has no checkpoint to go on from; start again with --output {folder} --overwrite"
            )
        progress, _ = restore_training(last, job.vae, job.svi.optimizer)
        if epochs < progress.epoch or progress.finished(epochs):
            raise InputError(
                f"{folder} has had its {progress.epoch} epochs; ask for more with --epochs"
            )
        if progress.finished(epochs, config.patience):
            raise InputError(
                f"{folder} stopped after {progress.waited} epochs without a better one; ask for more with --patience"
            )
    rows = _read_metrics(metrics, progress.epoch)
    writer = _tensorboard(config, folder)
    write_atomically(folder / "config.toml", lambda path: path.write_text(_toml(job, folder)))
    _write_metrics(metrics, rows)

    def save(value: float) -> None:
        state: dict[str, Any] = {
            "optimizer": job.svi.optimizer,
            "progress": progress,
            "best": progress.best,
        }
        save_checkpoint(last, job.vae, job.spec, epoch=progress.epoch, score=value, **state)

    display = Display(epochs, progress.epoch, _bound(job.vae), _judged_by(job))

    def noticed(remark: Remark) -> None:
        display.say(f"{remark.kind:<10} {remark.text}; try {remedy(remark.kind, asdict(config))}")

    with signals() as asked:
        steps = run_epochs(
            job.svi,
            job.train,
            epochs=epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            schedule=job.schedule,
            validation=job.validation,
            patience=config.patience,
            compile=COMPILE[config.compile],
            progress=progress,
            stop=lambda: bool(asked),
            report=display.within,
            say=lambda text: display.say(f"compiling  {text}"),
            remark=noticed,
        )
        try:
            for e in steps:
                rows.append(e._asdict())
                with metrics.open("a", newline="") as file:
                    csv.DictWriter(file, Epoch._fields).writerow(e._asdict())
                best = folder / "best.safetensors"
                if progress.best_epoch == e.epoch or not best.is_file():
                    save_checkpoint(best, job.vae, job.spec, epoch=e.epoch, score=e.score)
                save(e.score)
                display.epoch(e)
                for name in Epoch._fields[1:] if writer else ():
                    writer.add_scalar(name, getattr(e, name), e.epoch)
        except InputError as error:
            kept = (
                f"; the checkpoint after epoch {progress.epoch} is kept in {folder}"
                if last.is_file()
                else ""
            )
            raise InputError(f"{error}{kept}") from error
        finally:
            display.close()
            if writer:
                writer.close()
        if progress.order is not None:  # broken off inside an epoch: keep that too
            save(math.nan)
    finished = progress.finished(epochs, config.patience)
    if finished and progress.epoch < epochs:
        waited = f"{progress.waited} epochs without a better {_judged_by(job)}"
        print(
            f"stopped    after epoch {progress.epoch}, {waited} than in epoch {progress.best_epoch}"
        )
    return finished


def draw_figures(job: Job, folder: Path) -> list[str]:
    """The run's pictures, from its best checkpoint; the names of the files."""
    from pyro_vae import plots

    vae, _, _ = load_weights(folder / "best.safetensors")
    vae.to(job.device).eval()
    pyro.set_rng_seed(job.config.seed)
    held_out = job.validation if job.validation is not None else job.train.fixed()
    x = held_out.first(20)[:]
    figures = {
        "learning_curves": plots.learning_curves(
            _read_metrics(folder / "metrics.csv", 10**9), bound=_bound(vae)
        ),
        "reconstructions": plots.reconstructions(x, vae.reconstruct(x)),
        "prior_samples": plots.grid(
            vae.sample(100, mean=True), columns=10, title="mean of p(x | z), z from the prior"
        ),
    }
    if job.config.latent_dim == 2:
        index = spread(2000, len(job.train))
        labels = None if job.data.labels is None else job.data.labels["train"][index.numpy()]
        figures["manifold"], _ = plots.manifold(vae)
        figures["posterior_means"] = plots.scatter(vae.posterior_mean(job.train[index]), labels)
    for name, figure in figures.items():
        write_atomically(subfolder(folder, "figures") / f"{name}.png", figure.savefig)
    return [f"{name}.png" for name in figures]


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    config, resumed, dry = resolve(arguments)
    job = prepare(config, resumed)
    print(describe(job))
    if dry:
        print(_shapes(job.vae, job.spec.shape))
        print(f"\n{_toml(job, Path())}", end="")
        return
    folder = resumed or _folder(job.config)
    print(f"run        {folder}, on {job.device}", flush=True)
    started = time.perf_counter()
    finished = train(job, folder, resume=resumed is not None)
    command = f"python -m pyro_vae.train --resume {folder}"
    if not finished:
        print(f"stopped and saved; go on with: {command}", flush=True)
        raise KeyboardInterrupt
    names = draw_figures(job, folder)
    _, _, header = load_weights(folder / "best.safetensors")
    kind = "training" if job.validation is None else "validation"
    if math.isnan(header["score"]):
        chosen = f"weights of epoch {header['epoch']}, the last, as all lie inside the warm-up"
    else:
        chosen = f"best {kind} {_judged_by(job)} {header['score']:.2f} nats per datum, after epoch {header['epoch']}"
    print(
        f"\ndone in {time.perf_counter() - started:.0f} s: {chosen}\n"
        f"{folder}: config.toml, metrics.csv, best.safetensors, last.safetensors, figures/ ({', '.join(names)})\n"
        f"next: python -m pyro_vae.evaluate {folder}"
    )


if __name__ == "__main__":
    run("pyro_vae.train", main)
