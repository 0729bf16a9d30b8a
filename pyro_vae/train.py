"""`python -m pyro_vae.train`: from options to a run folder with a trained VAE."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.train")  # before anything that takes time

from pyro_vae._cli.options import answer
from pyro_vae._cli.training import make_parser

if __name__ == "__main__":
    answer(make_parser())  # before the imports, which take seconds

import itertools
import math
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyro
import tomli_w
import torch
from matplotlib.figure import Figure
from torch import nn

from pyro_vae import __version__
from pyro_vae._cli.display import Display
from pyro_vae._cli.keep import Keeper
from pyro_vae._cli.logs import Logs, log_names
from pyro_vae._cli.naming import run_name
from pyro_vae._cli.options import formats, run
from pyro_vae._cli.outputs import draw, reason
from pyro_vae._cli.seeds import Seeds, read_seeds, train_all
from pyro_vae._cli.telling import teller
from pyro_vae._cli.training import resolve, without_seeds
from pyro_vae._config import COMPILE, STREAM, Config, flag, key
from pyro_vae._metrics import metrics_text, read_metrics
from pyro_vae._starting import check_values, parts_of, start
from pyro_vae.checkpoint import (
    is_older,
    load_weights,
    restore_training,
    save_checkpoint,
)
from pyro_vae.data import EPOCHS, Bridge, Data, DataSet, Split, evenly, load_data
from pyro_vae.data.classes import with_labels, without_labels
from pyro_vae.data.conditions import LABEL, Conditions
from pyro_vae.data.files import INTERNAL, Request
from pyro_vae.data.fingerprint import check_same, fingerprint
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.named import NAMED
from pyro_vae.data.schema import drawn_by_column, stored_columns, table_of
from pyro_vae.data.several import FieldSet
from pyro_vae.data.targets import with_targets
from pyro_vae.data.usual import usual_likelihood
from pyro_vae.engine.affine import use_products, usual_products
from pyro_vae.engine.memory import free_bytes
from pyro_vae.engine.processes import here, leave, started
from pyro_vae.foundation.abstract import alone, forked_random
from pyro_vae.foundation.checks import between, check, shown
from pyro_vae.foundation.commands import command, option, trust
from pyro_vae.foundation.endings import asking, reader_gone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import (
    LOCK,
    MARK,
    Write,
    locked,
    subfolder,
    write_atomically,
)
from pyro_vae.foundation.launch import launch
from pyro_vae.foundation.memory import in_words
from pyro_vae.foundation.reading import user_path
from pyro_vae.foundation.sources import sources
from pyro_vae.foundation.trust import AXES as TRUSTED
from pyro_vae.foundation.trust import by_the_command_line
from pyro_vae.inference.coding import fit_codes
from pyro_vae.inference.corrupting import bodies_of, corrupted
from pyro_vae.inference.epochs import Epoch, Progress
from pyro_vae.inference.fit import Turn, run_epochs, step_bytes
from pyro_vae.inference.joint import join
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.objectives.codes import gradient_of
from pyro_vae.inference.remedies import REMEDIES, remedy
from pyro_vae.inference.seeking import (
    begin,
    begin_prior,
    epochs_before,
    parts_of_prior,
    seek,
)
from pyro_vae.inference.spreading import spread_labels
from pyro_vae.inference.stacking import check_stack, stack
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.watch import Remark
from pyro_vae.models.one_field import OneField
from pyro_vae.models.priors import Codes
from pyro_vae.models.program import formula
from pyro_vae.models.targets import TargetPrior
from pyro_vae.models.vae import VAE
from pyro_vae.networks import Corruption, Standardised
from pyro_vae.networks.corruptions import readers
from pyro_vae.report.card import write_card
from pyro_vae.runs import (
    CARD,
    clear,
    each_place,
    is_run,
    on_run,
    portable,
    read_resolved,
    require_data,
)
from pyro_vae.second import BEFORE, RECORD, Gain, Kept, read_pairs, record, some
from pyro_vae.spec import (
    AXES,
    Member,
    Spec,
    build,
    guide_of_classes,
    parse,
    parse_members,
    parse_optimizer,
    parse_part,
    parse_schedule,
    usual_prior,
)
from pyro_vae.tables import (
    choices,
    field_wishes,
    likelihood_of,
    likelihood_of_fields,
    wishes_of,
)
from pyro_vae.trained import pick_device

DRAWN = 2000  # rows of a table in a picture
PICTURES, COLUMN = 80, 8  # samples of each of two priors, and how many in a row
COLUMNS = 1000  # names that a run keeps, to know them again in new data


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


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
    train: Split | Data
    validation: Split | Data | None
    reason: str | None  # why the likelihood is what it is, where none was asked for
    fingerprint: dict[str, str]
    notes: list[str]  # about the data of a run that goes on
    conditions: Conditions | None = None
    # The run whose pair is kept but for its prior; None where all is trained, and of a run that goes on.
    kept: Kept | None = None
    corruption: Corruption | None = None
    # What pictures show of data.
    shown: Callable[[torch.Tensor], torch.Tensor] = _unchanged


def _check_figures(config: Config) -> None:
    """Raise `InputError` for formats of figures that there are not."""
    try:
        formats(config.figures)
    except ArgumentTypeError as error:
        raise InputError(f"--figures {error}") from error


def _check_numbers(config: Config) -> None:
    """Raise `InputError` for a number that is out of range."""
    for name, low in (
        ("batch_size", 1),
        ("epochs", 1),
        ("patience", 1),
        ("stacked", 1),
        ("learning_rate", 0),
        ("clip_norm", 0),
    ):
        value = getattr(config, name)
        if value is not None and (
            not math.isfinite(value) or value < low or (low == 0 and value == 0)
        ):
            raise InputError(
                f"{flag(name)} {value} must be {'positive and finite' if low == 0 else f'at least {low}'}"
            )
        if value is not None and value > 10**9:
            raise InputError(f"{flag(name)} {value:g} is too large: 10^9 is the most")
    if not 0 <= config.weight_decay < math.inf:
        raise InputError(
            f"--weight-decay {config.weight_decay} must be finite and at least 0"
        )
    if config.average is not None and not 0 < config.average < 1:
        raise InputError(
            f"--average {config.average:g} must lie between 0 and 1, both left out, as 0.999 does"
        )
    log_names(config.log)
    check("--workers", config.workers, Annotated[int, between(0, 1000)])
    if not 0 <= config.seed < 2**32:
        raise InputError(f"--seed {config.seed} must lie between 0 and 2^32 - 1")
    if config.labelled is not None and config.labelled < 0:
        raise InputError(f"--labelled {config.labelled} must be at least 0")
    if config.condition is None and config.condition_encoder == "no":
        raise InputError(
            "--condition-encoder is for a pair with a condition: add --condition"
        )
    _check_figures(config)


def prepare(config: Config, resumed: Path | None = None) -> Job:
    """Load the data and build the pair; every mistake in the options is found here.

    Args:
        config: the options.
        resumed: the run folder that they are of, whose data must be the same as they were.
    """
    _check_numbers(config)
    if config.epochs is None:
        config = replace(config, epochs=EPOCHS.get(config.dataset, 100))
    device = pick_device(config.device)
    config = _with_fields(_with_dims(config))
    config, kept = _with_objective(*_with_second_prior(config, resumed))
    given = {axis: getattr(config, axis) for axis in AXES}
    several = sources(config.dataset, config.key) is not None
    if several or wishes_of(config.likelihood) is not None:
        del given["likelihood"]  # it is known once the data were read
    members: dict[str, Any] = {
        a: str(parse_part(a, v)) for a, v in given.items() if v is not None
    }
    config, corruption = _with_corruption(replace(config, **members))
    optimizer, schedule = (
        parse_optimizer(config.optimizer, device.type),
        parse_schedule(config.schedule),
    )
    _check_em(config, optimizer)
    data, known, notes = _data(config, kept.folder if kept is not None else resumed)
    config, reason = _with_likelihood(config, data)
    conditions, said = data.learned(config.condition)
    config, conditions, more = _with_classes(config, data, conditions)
    config = _with_start(config, data)
    assert config.likelihood is not None
    data.notes = (*data.notes, *said, *more)
    spec = Spec(
        data.shape,
        config.latent_dim,
        config.prior,
        config.network,
        config.likelihood,
        config.guide,
        config.structure,
        missing=data.missing,
        context=0 if conditions is None else conditions.width,
        encoder_context=config.condition_encoder == "yes",
    )
    pyro.set_rng_seed(config.seed)
    vae = build(spec)
    _check_first(vae, config, corruption)
    products = usual_products() if config.products == "auto" else config.products
    use_products(vae, products)
    config = replace(config, products=products)
    bridge = data.bridge(
        vae.model.likelihood,
        binarize=config.binarize,
        dequantize=config.dequantize,
        scale=config.scale,
    )
    # Only networks compute in bf16.
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    train = data.fields("train", bridge, conditions, dtype=dtype)
    validation = data.fields("validation", bridge, conditions, dtype=dtype)
    data.fields("test", bridge, conditions, dtype=dtype)  # what evaluation would refuse
    for part, of_part, likelihood in parts_of(data, bridge, vae):
        check_values(part, of_part, likelihood, dtype)
    vae.to(device=device, dtype=dtype)
    start(vae, data, bridge, train, device)
    _count_labels(vae, conditions)
    if config.from_ is not None:
        _keep(kept, vae, spec, train.to(device))
    autocast = torch.bfloat16 if config.precision == "bf16" else None

    def make(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        return optimizer(parameters, lr=config.learning_rate)

    objective = parse("objective", config.objective or "")()
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
        average=config.average,
        only=None if config.from_ is None else vae.model.prior,
    )
    svi.check(train.take(torch.arange(min(2, len(train)))).to(device)[:])
    if isinstance(objective, Objective):
        objective.prepare(len(train), config.epochs or 0)
    join(svi, train.to(device), min(config.batch_size, len(train)))
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
        conditions,
        kept,
        corruption,
    )


def _with_second_prior(
    config: Config, resumed: Path | None
) -> tuple[Config, Kept | None]:
    """The configuration and the pair of another run of which all but the prior is kept, where --from names one."""
    if config.from_ is None or resumed is not None:
        return config, None
    kept = Kept.of(Path(config.from_))
    return replace(config, prior=kept.with_prior(config.prior or "")), kept


def _with_objective(config: Config, kept: Kept | None) -> tuple[Config, Kept | None]:
    """The configuration with the usual objective where none was asked for: of a second prior the ELBO."""
    if config.objective is not None:
        return config, kept
    structure = parse("structure", config.structure)()
    guide = parse_members("guide", config.guide).usual.make
    usual = structure.usual_objective(guide, config.epochs or 0)
    return replace(config, objective="ELBO()" if config.from_ else usual), kept


def _keep(kept: Kept | None, vae: VAE, spec: Spec, train: Split | Data) -> None:
    """Give a pair the weights of another but for its prior, which begins at the codes; a run that goes on reads all."""
    if kept is not None:
        kept.give(vae, spec)
    begin_prior(vae, train)


def _with_corruption(config: Config) -> tuple[Config, Corruption | None]:
    """The options with what data are corrupted by in full, and this."""
    if config.corrupt is None:
        return config, None
    member = parse("corrupt", config.corrupt)
    return replace(config, corrupt=str(member)), member()


def _check_first(vae: VAE, config: Config, corruption: Corruption | None) -> None:
    """Raise `InputError` where a pair has no encoder to corrupt the data of, or no layers to train one by one."""
    corrupted(vae.guide, corruption)
    if config.stacked is not None:
        check_stack(vae)


def _with_dims(config: Config) -> Config:
    """The configuration with the lengths of a structure's layers where the structure keeps them."""
    member = parse("structure", config.structure)
    if config.dims is not None:
        if not member().dims:
            raise InputError(
                f"--dims {shown(config.dims)} are the lengths of layers, and --structure {member.name.lower()} has "
                "one vector z: give --latent-dim, or --structure chain or ladder"
            )
        dims = _whole_numbers("--dims", config.dims)
        member = replace(member, arguments={**member.arguments, "dims": dims})
    if not member().vector:
        return _without_vector(config)
    dims = member().dims
    if not dims:
        return config
    if config.latent_dim not in (Config.latent_dim, sum(dims)):
        raise InputError(
            f"--latent-dim {config.latent_dim} is the length of one vector z, and --structure {member.name.lower()} "
            f"has layers of the lengths {', '.join(map(str, dims))}: give --dims"
        )
    return replace(config, structure=str(member), latent_dim=sum(dims), dims=None)


def _without_vector(config: Config) -> Config:
    """The configuration of a structure whose class is all that there is."""
    if config.latent_dim not in (Config.latent_dim, 0):
        raise InputError(
            f"--latent-dim {config.latent_dim} is the length of a vector z, and the formula has none: leave it out"
        )
    return replace(config, latent_dim=0, guide=guide_of_classes(config.guide))


def _check_em(config: Config, optimizer: Member) -> None:
    """Refuse what goes with gradients beside an optimizer that takes none."""
    if optimizer.name != "EM":
        return
    others = ("learning_rate", "schedule", "weight_decay", "clip_norm", "average")
    for name in others:
        if getattr(config, name) != getattr(Config, name):
            raise InputError(
                f"{flag(name)} {shown(getattr(config, name))} goes with gradients, and --optimizer em takes none: "
                "leave it out"
            )


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    pieces = [piece.strip() for piece in text.strip("()[] ").split(",")]
    if pieces[-1:] == [""] and len(pieces) > 1:
        pieces.pop()
    if not all(piece.isdecimal() and len(piece) < 10 for piece in pieces):
        raise InputError(
            f"{option} {shown(text)} must be whole numbers with commas between them, as in 100,50"
        )
    return tuple(map(int, pieces))


def _with_fields(config: Config) -> Config:
    """The configuration with a --key that names the fields of a formula, where nothing else says where they are."""
    fields = parse("structure", config.structure)().fields
    one = config.key is None and sources(config.dataset, None) is None
    return replace(config, key=",".join(fields)) if fields and one else config


def _data(
    config: Config, resumed: Path | None
) -> tuple[DataSet, dict[str, str], list[str]]:
    """The data that are trained on, what they are known by, and what is to be said of those of a run that goes on."""
    request: dict[str, Any] = {
        f.name: getattr(config, f.name, None) for f in fields(Request)
    }
    request = {name: v for name, v in request.items() if name not in INTERNAL}
    several = sources(config.dataset, config.key)
    columns = (
        wishes_of(config.likelihood)
        if several is None
        else field_wishes(config.likelihood, several)
    )
    request |= {"stream": STREAM[config.stream], "columns": columns}
    if resumed is None:
        # What is downloaded is downloaded once.
        once = here().in_turn if config.dataset in NAMED else lambda load: load()
        data = once(partial(load_data, **request))
        return data, fingerprint(data), []
    require_data(config.dataset, resumed)
    stored = read_resolved(resumed / "config.toml")
    data = load_data(**request | {"columns": stored_columns(stored)})
    known = fingerprint(data)
    return data, known, check_same(resumed, stored, data, known)


def _with_classes(
    config: Config, data: DataSet, conditions: Conditions | None
) -> tuple[Config, Conditions | None, Sequence[str]]:
    """The options and the conditions of a structure with classes, whose labels the training data then are given."""
    member = parse("structure", config.structure)
    structure = member()
    if config.prior is None:
        config = replace(config, prior=usual_prior(config.guide, config.structure))
    if not structure.label_width:
        if config.labelled is not None:
            raise InputError(
                f"--labelled {config.labelled} is for a structure with classes: add --structure labelled"
            )
        return config, conditions, ()
    reads = structure.reads_labels if config.labelled is None else config.labelled > 0
    size = member.arguments.get("classes")
    if structure.real and size is not None:
        raise InputError(
            f"classes={size} of --structure {member.name.lower()} counts classes, and target='real' has none: leave "
            "one of them out"
        )
    if not (reads or structure.reads_labels):
        found = without_labels(structure.classes)
    elif data.labels is None:
        raise InputError(
            f"--structure {member.name.lower()} is given labels, and {data.name} has none: name them with --labels"
        )
    else:
        kept: Any = {"keep": config.labelled, "seed": config.seed}
        kept["name"] = _label_name(config)
        read = with_targets if structure.real else partial(with_labels, size=size)
        found = read(data.labels, **kept)
    others = () if conditions is None else conditions.columns
    if found.column.name in (column.name for column in others):
        raise InputError(
            f"--condition {found.column.name} is the y of --structure {member.name.lower()}: leave it out"
        )
    if found.kept is not None and reads:
        data.given = {found.column.name: {"train": found.kept}, **data.given}
    arguments = dict(member.arguments)
    if not structure.real:
        arguments["classes"] = len(found.column.categories)
    start = getattr(structure, "start", 0)
    if start and reads:
        raise InputError(
            f"--structure {member.name.lower()} is given labels, which say which class is which: leave start out"
        )
    if start is None:
        arguments["start"] = 0 if reads else _usual_start(config, data)
    config = replace(config, structure=str(replace(member, arguments=arguments)))
    return config, Conditions((found.column, *others)), found.notes


def _usual_start(config: Config, data: DataSet) -> int:
    """After how many epochs parts of p(z) are sought among the codes where nobody says."""
    steps = -(-len(data.values["train"]) // config.batch_size)
    return epochs_before(steps, config.epochs or 0)


def _with_start(config: Config, data: DataSet) -> Config:
    """The options with the epoch after which the components of a prior are sought, where it is asked for as None."""
    members = parse_members("prior", config.prior or "")
    member = members.usual
    if member.arguments.get("start", 0) is not None:
        return config
    arguments = {**member.arguments, "start": _usual_start(config, data)}
    usual = replace(member, arguments=arguments)
    return replace(config, prior=str(members._replace(usual=usual)))


def _label_name(config: Config) -> str:
    """What the labels are called: by their column, where they have one."""
    file = config.labels is None or user_path(config.labels).is_file()
    return LABEL[0] if file or config.labels is None else config.labels


def _check_memory(job: Job) -> None:
    """Raise `InputError` where a step needs more memory than there is, by what a few data need."""
    size = min(job.config.batch_size, len(job.train))
    if job.device.type == "mps" or size < 4:
        return
    with forked_random():
        few = job.train[torch.arange(4)]
    needed, there = step_bytes(job.svi, few, size), free_bytes(job.device)
    if needed > there:
        raise InputError(
            f"a step of {size} data takes {in_words(needed)} of memory beside the weights, and "
            f"{in_words(there)} are available; use a smaller --batch-size, --latent-dim or network"
        )


def _count_labels(vae: VAE, conditions: Conditions | None) -> None:
    """Tell the model in which unit a real target is counted."""
    column = None if conditions is None else conditions.latent
    prior = vae.model.class_prior
    if column is not None and isinstance(prior, TargetPrior):
        prior.count_in(math.log(column.std))


def _with_likelihood(config: Config, data: DataSet) -> tuple[Config, str | None]:
    """The configuration with a likelihood: the one asked for, or the usual one of the data and why it is that."""
    if isinstance(data, FieldSet):
        text, reasons = likelihood_of_fields(
            data.parts,
            config.likelihood,
            bits=config.binarize is not None,
            density=config.dequantize or config.scale,
        )
        reason = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        return replace(config, likelihood=text), reason or None
    if data.schema is not None:
        return replace(
            config, likelihood=likelihood_of(data.schema, config.likelihood or "")
        ), None
    if config.likelihood is not None:
        return config, None
    usual, reason = usual_likelihood(
        data,
        bits=config.binarize is not None,
        density=config.dequantize or config.scale,
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
    schema, likelihood = job.data.schema, config.likelihood or ""
    chosen = [] if schema is None else choices(schema, likelihood).splitlines()
    likelihood = likelihood if schema is None else "Columns"
    several = isinstance(job.data, FieldSet)
    likelihood = "Fields" if several else likelihood
    how = gradient_of(job.vae.guide, job.svi.objective)
    return "\n".join(
        [
            *([] if config.from_ is None else [_said_of_kept(job)]),
            f"data       {job.data.name} {_shape(job.data)}: {sizes} ({job.data.source})",
            *([f"on disk    {job.data.streamed}"] if job.data.streamed else []),
            *(f"read       {note}" for note in (*job.data.notes, *job.notes)),
            *_said_of_values(job),
            *(
                f"{'columns' if i == 0 else '':11}{line}"
                for i, line in enumerate(chosen)
            ),
            *(
                [f"likelihood {config.likelihood}, because {job.reason}"]
                if job.reason and not several
                else []
            ),
            *_said_of_conditions(job),
            f"structure  {config.structure}: {formula(model, job.vae.guide)}",
            f"model      {config.prior}, {config.network}, {likelihood}: {count['model']:,} parameters",
            f"guide      {config.guide}, latent dimension {config.latent_dim}: {count['guide']:,} parameters",
            *_said_of_corruption(job),
            *(
                [
                    f"stacked    each hidden layer by itself first, {config.stacked} epochs"
                ]
                if config.stacked
                else []
            ),
            f"objective  {config.objective}, {job.optimizer}{_rate(job)}",
            *([] if how is None else [f"gradient   {how}"]),
            *_said_of_average(job),
        ]
    )


def _said_of_kept(job: Job) -> str:
    """What of another run is kept, and what is trained."""
    count = sum(p.numel() for p in job.vae.model.prior.parameters())
    after = "" if job.kept is None else f" after epoch {job.kept.epoch}"
    return (
        f"from       {job.config.from_}{after}: all of it stays as it is but p(z), a second prior of {count:,} "
        "parameters on its codes"
    )


def _rate(job: Job) -> str:
    """The rate of an optimizer that has one, and how it changes."""
    if job.svi.em is not None:
        return ""
    return f" at {job.config.learning_rate:g}, {job.config.schedule}"


def _said_of_average(job: Job) -> list[str]:
    """Which weights are validated and kept, where they are not those that steps move."""
    decay = job.config.average
    if decay is None:
        return []
    return [
        f"average    of the weights over about the last {1 / (1 - decay):,.4g} steps, decay {decay:g}: what is "
        "validated and kept"
    ]


def _shape(data: DataSet) -> str:
    """Of a datum, for a person."""
    if not isinstance(data, FieldSet):
        return str(list(data.shape))
    return ", ".join(f"{name} {list(part.shape)}" for name, part in data.parts.items())


def _said_of_values(job: Job) -> list[str]:
    """How the values are seen; of several fields each, with its likelihood."""
    if not isinstance(job.data, FieldSet):
        kind = job.bridge.result(job.data.representation)
        return [f"seen as    {kind.value}, {job.bridge}"]
    members = parse("likelihood", job.config.likelihood or "").arguments["fields"]
    lines = []
    for name, (part, bridge, _) in zip(
        job.data.parts, parts_of(job.data, job.bridge, job.vae), strict=True
    ):
        lines.append(f"field      {name} {list(part.shape)}: {bridge}")
        if part.schema is None:
            kind = bridge.result(part.representation)
            lines[-1] += f", {kind.value}; {members[name]}"
        else:
            table = choices(part.schema, str(members[name]))
            lines += [f"{'':11}{line}" for line in table.splitlines()]
    if job.reason:
        lines.append(f"{'':11}because {job.reason}")
    return lines


def _said_of_conditions(job: Job) -> list[str]:
    """What the data are given, and of which classes they are."""
    if job.conditions is None:
        return []
    classes = [str(k) for k in job.conditions.columns if k.latent]
    given = [str(k) for k in job.conditions.columns if not k.latent]
    lines = []
    if classes:
        weight = job.vae.guide.classifier.weight  # type: ignore[union-attr]
        what = "classes" if job.vae.classes else "target"
        words = f"y: {', '.join(classes)}; weight of labels {weight:g}"
        lines.append(f"{what:<11}{words}")
    if given:
        lines.append(f"given      c: {', '.join(given)}")
    return lines


def _said_of_corruption(job: Job) -> list[str]:
    """What encoders see in training, and in which units."""
    if job.corruption is None:
        return []
    networks = [n for body in bodies_of(job.vae.guide) for n in readers(body)]
    standard = {isinstance(network, Standardised) for network in networks}
    units = {True: "standard deviations", False: "the units of the data"}
    words = " and ".join(units[kind] for kind in sorted(standard))
    return [
        f"corrupted  {job.config.corrupt}: what the encoder sees in training, in {words}"
    ]


def _are_images(data: DataSet) -> bool:
    """Whether a datum is an image, and no table, row of numbers or several fields."""
    return not isinstance(data, FieldSet) and len(data.shape) > 1


def _bound(vae: VAE) -> str:
    """What `E_q[log p(x, z) - log q(z|x)]` is called: under a guide that is a point it is no bound."""
    return "ELBO" if vae.guide.has_density else "log p(x, z)"


def _judged_by(job: Job) -> str:
    """What the best epoch is chosen by."""
    objective = job.svi.objective
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
    x, c = (parameter.new_zeros(1, *some) for some in (shape, (vae.context,)))
    vae.eval()(x, c if vae.context else None)
    vae.train(training)
    for handle in handles:
        handle.remove()
    return "\n".join(["layers     name, kind, shape for one datum, parameters", *lines])


def _toml(job: Job, folder: Path) -> str:
    """The run's configuration, with what it resolved to in a table of its own; paths are written from `folder` on."""
    given = {key(f.name): getattr(job.config, f.name) for f in fields(Config)}
    places = ["data_dir", "from"]
    if given["labels"] is not None and user_path(given["labels"]).is_file():
        places.append("labels")
    for name in places:
        given[name] = None if given[name] is None else portable(given[name], folder)
    given["dataset"] = each_place(
        given["dataset"], lambda place: portable(place, folder)
    )
    kept = {
        k: v
        for k, v in given.items()
        if v is not None and k not in ("output", "overwrite")
    }
    source = Path(job.data.source)
    one = not isinstance(job.data, FieldSet)
    columns = job.data.columns or ()
    resolved: dict[str, Any] = {
        "version": __version__,
        "versions": {"pyro": pyro.__version__, "torch": str(torch.__version__)},
        "source": portable(source, folder)
        if one and source.exists()
        else job.data.source,
        "shape": list(job.data.shape),
        **({"columns": list(columns)} if 0 < len(columns) <= COLUMNS else {}),
        **(
            {"table": schema.to_dicts()}
            if (schema := job.data.schema) is not None
            else {}
        ),
        "sizes": {split: len(v) for split, v in job.data.values.items()},
        "fingerprint": job.fingerprint,
        **({} if job.conditions is None else {"condition": job.conditions.to_list()}),
        "stored": job.data.representation.name,
        "representation": job.bridge.result(job.data.representation).name,
        **job.bridge.to_dict(),
    }
    if isinstance(job.data, FieldSet):
        parts = job.data.parts.values()
        for of_field, part in zip(resolved["fields"], parts, strict=True):
            of_field["stored"] = part.representation.name
            if part.schema is not None:
                of_field["table"] = part.schema.to_dicts()
    return tomli_w.dumps({**kept, "resolved": resolved})


def _folder(config: Config) -> Path:
    """The run folder, made if need be."""
    if config.output is not None:
        folder = Path(config.output)
        ours = is_run(folder)
        if ours and not config.overwrite:
            raise InputError(
                f"{folder} holds a run already: go on with {option('resume', folder)}, "
                "name another --output, or add --overwrite"
            )
        if not ours and any(_foreign(folder)):
            raise InputError(
                f"{folder} holds other files and no run of this package; name an empty or new folder as --output"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    while True:
        stem = run_name(config, _called(config))
        names = (stem + (f"-{i}" if i > 1 else "") for i in itertools.count(1))
        folder = next(f for n in names if not (f := Path("runs") / n).exists())
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another run took the name in this moment
            folder.mkdir()
            return folder


def _called(config: Config) -> str:
    """What the data are called in the name of a folder; several files by their fields."""
    several = sources(config.dataset, config.key)
    one = several is None or len({s.dataset for s in several.values()}) == 1
    return Path(config.dataset).stem if one else "-".join(several or ())


def _foreign(folder: Path) -> Iterator[Path]:
    """The files in a folder, but for what a run leaves that was killed before it had written any."""
    for path in folder.rglob("*"):
        ours = path.name == LOCK or path.relative_to(folder).parts[0].startswith(MARK)
        if not ours and (path.is_symlink() or not path.is_dir()):
            yield path


def _logs(job: Job, folder: Path, say: Callable[[str], None] = print) -> Logs:
    """The programs of `--log`, which are told of this run."""
    options = {k: v for k, v in asdict(job.config).items() if v is not None}
    return Logs(log_names(job.config.log), folder, options, say=say)


class _RunFiles:
    """The files of a run under way, which the first of several processes writes.

    Args:
        job: what is trained.
        folder: the run folder.
        progress: where the run stands.
        resume: whether the run goes on.
        say: called with a sentence when a file cannot be written.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        progress: Progress,
        *,
        resume: bool,
        say: Callable[[str], None],
    ) -> None:
        self.job, self.folder, self.progress, self.resume = (
            job,
            folder,
            progress,
            resume,
        )
        self.last, self.metrics = folder / "last.safetensors", folder / "metrics.csv"
        self.rows = read_metrics(self.metrics, progress.epoch)
        self.logs = _logs(job, folder, say)
        self.keeper = Keeper(folder, self._begin, say=say)
        if here().first:
            self.logs.begin(again=resume)
        if here().first and (not is_run(folder) or resume):
            self.keeper.start()

    def _begin(self) -> None:
        """The run that --overwrite replaces goes when there is something to put in its place."""
        if self.job.config.overwrite and not self.resume:
            clear(self.folder)
        files = _first_files(self.job, self.folder)
        for path, write in {**files, self.metrics: self._write_rows}.items():
            self.keeper.put(path, write)

    def _write_rows(self, path: Path) -> None:
        path.write_text(metrics_text(self.rows), newline="", encoding="utf-8")

    def add(self, e: Epoch) -> None:
        """Keep what an epoch came to."""
        if here().first:
            self.rows.append(e._asdict())
            line = metrics_text(self.rows[-1:], header=False)
            self.keeper.append(self.metrics, line, self._write_rows)
            self.logs.epoch(e)
            self.logs.keep()
            self._save_best(e)
        self.save(e.score)

    def _save_best(self, e: Epoch) -> None:
        best, write = self.folder / "best.safetensors", self.keeper.put
        if self.progress.best_epoch == e.epoch or not self.keeper.has(best):
            number: dict[str, Any] = {"epoch": e.epoch, "score": e.score}
            number |= {"average": self.job.svi.average, "write": write}
            save_checkpoint(best, self.job.vae, self.job.spec, **number)

    def save(self, value: float) -> None:
        """Keep all that the run needs to go on, of all processes."""
        streams = here().streams()
        if not here().first:
            return
        job, progress = self.job, self.progress
        state: dict[str, Any] = {
            "optimizer": job.svi.optimizer,
            "progress": progress,
            "best": progress.best,
            "average": job.svi.average,
            "streams": streams,
            "beside": getattr(job.svi.objective, "learned", None),
        }
        state |= {"epoch": progress.epoch, "score": value, "write": self.keeper.put}
        save_checkpoint(self.last, job.vae, job.spec, **state)

    def finish(self) -> None:
        """Write what waits."""
        if here().first:
            self.keeper.finish()


def train(job: Job, folder: Path, *, resume: bool = False, quiet: bool = False) -> bool:
    """Train `job` and keep `folder` up to date after each epoch; whether all epochs were done.

    Each file is replaced in one move, so that a kill loses the epoch under way and nothing else.
    """
    config, epochs = job.config, job.config.epochs
    assert epochs is not None
    progress = Progress()
    if resume:
        progress = _restore(job, folder)
        if progress.finished(epochs, config.patience):
            return True
    else:
        here().own_stream(config.seed)
    display = Display(
        epochs,
        progress.epoch,
        _bound(job.vae),
        _judged_by(job),
        unit="images" if _are_images(job.data) else "data",
        quiet=quiet,
    )
    files = _RunFiles(
        job,
        folder,
        progress,
        resume=resume,
        say=lambda text: display.say(f"not saved  {text}"),
    )
    with asking() as asked, corrupted(job.vae.guide, job.corruption):
        try:
            for e in _epochs(
                job,
                progress,
                display,
                stop=lambda: bool(asked) or reader_gone(look=True),
            ):
                files.add(e)
                display.epoch(e, best=progress.best_epoch == e.epoch)
        except InputError as error:
            raise InputError(f"{error}{_kept(files.keeper, progress)}") from error
        finally:
            display.close()
            files.logs.close()
        if progress.order is not None:  # broken off inside an epoch: keep that too
            files.save(math.nan)
        files.finish()
    finished = progress.finished(epochs, config.patience)
    if finished and progress.epoch < epochs:
        waited = f"{progress.waited} epochs without a better {_judged_by(job)}"
        display.tell(
            f"stopped    after epoch {progress.epoch}, {waited} than in epoch {progress.best_epoch}"
        )
    return finished


def _first_files(job: Job, folder: Path) -> dict[Path, Write]:
    """What a run folder holds from the beginning: the options, and the pair that a second prior is for."""
    text = _toml(job, folder)
    options = partial(Path.write_text, data=text, encoding="utf-8")
    files: dict[Path, Write] = {folder / "config.toml": options}
    if job.kept is not None:
        files[folder / BEFORE] = job.kept.write
    return files


def _kept(keeper: Keeper, progress: Progress) -> str:
    """What is there after a training that failed, as the end of a sentence."""
    if here().first and not keeper.begun:
        return f"; the run that was to be replaced is still in {keeper.folder}"
    if not (keeper.folder / "last.safetensors").is_file():
        return ""
    return f"; the checkpoint after epoch {progress.epoch} is kept in {keeper.folder}"


def _restore(job: Job, folder: Path) -> Progress:
    """Put a run back where it stands."""
    last = folder / "last.safetensors"
    if not last.is_file():
        raise InputError(
            f"{folder} has no checkpoint to go on from; start again with {option('output', folder)} --overwrite"
        )
    svi = job.svi
    progress, header = restore_training(
        last,
        job.vae,
        svi.optimizer,
        svi.average,
        getattr(svi.objective, "learned", None),
    )
    before, now = header.get("processes", 1), here().world
    if before != now:
        print(
            f"processes  {now} where it were {before}: the run goes on with other random numbers than it would have had"
        )
    if (job.config.epochs or 0) < progress.epoch:
        raise InputError(
            f"{folder} has had its {progress.epoch} epochs; ask for more with --epochs"
        )
    return progress


def _epochs(
    job: Job, progress: Progress, display: Display, stop: Callable[[], bool]
) -> Iterator[Epoch]:
    config = job.config

    def noticed(remark: Remark) -> None:
        known = remark.kind in REMEDIES
        advice = (
            f"try {remedy(remark.kind, asdict(config))}" if known else remark.advice
        )
        display.say(f"{remark.kind:<10} {remark.text}; {advice}")

    def turn() -> None:
        seek(job.vae, job.train)
        count, what = parts_of_prior(job.vae)
        clusters = what == "clusters"
        name, words = (what, count) if clusters else ("prior", f"{count} {what}")
        display.tell(
            f"{name:<11}{words} sought among the codes, by a mixture of Gaussians"
        )

    train = job.train
    spread = None if config.from_ is not None else spread_labels(job.vae, train)
    if spread is not None:
        display.tell(f"labels     {spread.sentence}")
        train = spread.data

    def first() -> None:
        if config.stacked:
            stack(
                job.vae,
                job.train,
                config.stacked,
                batch_size=config.batch_size,
                corrupt=job.corruption,
                say=lambda text: display.tell(f"layer      {text}"),
            )
        said = begin(job.vae, train)
        if said is not None:
            display.tell(f"{'labels' if 'learned' in said else 'classes':<11}{said}")

    def called(i: int) -> str:
        return (
            f"row {job.data.rows['validation'][i]} (counted from 0) of {job.data.name}"
        )

    return run_epochs(
        job.svi,
        train,
        epochs=config.epochs or 0,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        schedule=job.schedule,
        validation=job.validation,
        patience=config.patience,
        compile=COMPILE[config.compile],
        progress=progress,
        turn=Turn()
        if config.from_ is not None
        else Turn(job.vae.seek_after or 0, turn, first),
        stop=stop,
        report=display.within,
        say=lambda text: display.tell(f"compiling  {text}"),
        remark=noticed,
        called=called,
    )


def code_prior(job: Job, folder: Path) -> str | None:
    """Fit the prior over the codes of the run's best weights, where it has one that is not fitted; what it gained."""
    best = folder / "best.safetensors"
    vae, _, header = load_weights(best)
    if not isinstance(vae.model.prior, Codes) or vae.model.prior.fitted:
        return None
    vae.to(job.device).eval()
    length = fit_codes(vae, job.train.fixed(), seed=job.config.seed)
    number: dict[str, Any] = {k: header[k] for k in ("epoch", "score")}
    save_checkpoint(best, vae, job.spec, **number)
    return f"prior      {length}"


def measure_gain(job: Job, folder: Path) -> Gain:
    """What the second prior gained, which is also written into the run folder."""
    dtype = torch.float64 if job.config.precision == "float64" else torch.float32
    splits = {
        name: job.data.fields(name, job.bridge, job.conditions, dtype=dtype)
        for name in ("test", "validation", "train")
    }
    split, x = some(splits)
    pairs, priors = read_pairs(folder, job.device)
    gain = Gain.between(pairs, x.to(job.device), priors, split)
    source = portable(str(job.config.from_), folder)
    write_atomically(folder / RECORD, record(folder, gain, **{"from": source}))
    return gain


def figure_names(job: Job) -> list[str]:
    """The pictures that training leaves."""
    flat = job.config.latent_dim == 2
    names = ["learning_curves"]
    if isinstance(job.data, FieldSet):
        for field, part in job.data.parts.items():
            names += [f"{name}-{field}" for name in _figures_of(job, part)]
    else:
        names += _figures_of(job, job.data)
    return [*names, "posterior_means"] if flat else names


def _figures_of(job: Job, data: DataSet) -> list[str]:
    """The pictures of data that are one, or of a field."""
    names = ["reconstructions", "prior_samples"]
    if job.config.from_ is not None:
        names.append("second_prior")
    if drawn_by_column(data.schema, data.shape) and data.shape[0] > 1:
        names.append("prior_pairs")
    if job.config.latent_dim == 2 and data.schema is None:
        names.append("manifold")
    return names


def _of_field(job: Job, vae: VAE, name: str) -> tuple[Job, Any]:
    """A job and its pair, looked at as if one of several fields were all that is made."""
    data: Any = job.data
    bridge: Any = job.bridge
    field: Any = OneField(vae, name)
    part = replace(job, data=data.parts[name], bridge=bridge.of(name), shown=field.of)
    return part, field


def _by_column(job: Job) -> bool:
    return drawn_by_column(job.data.schema, job.data.shape)


def missing_figures(job: Job, folder: Path) -> list[str]:
    """Those that are not there, or older than the last checkpoint."""
    paths = {name: folder / "figures" / f"{name}.png" for name in figure_names(job)}
    return [name for name, path in paths.items() if _older(path, folder)]


def _older(path: Path, folder: Path) -> bool:
    """Whether a file is not there, or older than the last checkpoint of the run."""
    return is_older(path, folder / "last.safetensors")


def draw_figures(job: Job, folder: Path) -> list[str]:
    """The run's pictures, from its best checkpoint; the names of the files.

    Raises:
        InputError: for those that cannot be drawn, when all others are.
    """
    vae, _, _ = load_weights(folder / "best.safetensors")
    vae.to(job.device).eval()
    pyro.set_rng_seed(job.config.seed)
    names, place = figure_names(job), subfolder(folder, "figures")
    _, failed = draw(
        {
            place / f"{name}.png": partial(_figure, name, job, vae, folder)
            for name in names
        },
        formats(job.config.figures),
    )
    if failed:
        raise InputError(
            f"training is done and saved in {folder}, but not drawn: {', '.join(failed)}; "
            f"{option('resume', folder)} tries again"
        )
    return [f"{name}.png" for name in names]


def _card(folder: Path, vae: VAE, epoch: int) -> list[str]:
    """Write the card of a run: sentences about what stays in it."""
    try:
        return write_card(folder, vae, epoch)
    except OSError as error:
        raise InputError(
            f"training is done and saved in {folder}, but its card is not written: {reason(error)}; evaluation tries "
            "again"
        ) from error


def _figure(name: str, job: Job, vae: VAE, folder: Path) -> Figure:
    from pyro_vae import plots

    name, _, of_field = name.partition("-")
    if of_field:
        job, vae = _of_field(job, vae, of_field)
    if name == "learning_curves":
        history = read_metrics(folder / "metrics.csv", 10**9)
        return plots.learning_curves(history, bound=_bound(vae))
    if name == "second_prior":
        return _before_and_after(job, vae, folder, of_field)
    look = _look(job, vae)
    if look.kind == "table" and name not in ("posterior_means", "manifold"):
        return _table_figure(name, job, vae)
    if name == "reconstructions":
        held_out = job.validation if job.validation is not None else job.train.fixed()
        x = held_out.first(20)[:]
        seen, c = fields_of(x)
        made = vae.reconstruct(x)
        known = job.shown(seen)
        if look.kind == "series":
            title = "data, and the mean of p(x | z) at one draw of q(z | x)"
            return plots.series(known[:5], made[:5], title=title, look=look)
        return plots.reconstructions(known, made, conditional=c is not None, look=look)
    if job.conditions is not None and name in ("prior_samples", "manifold"):
        c, names = job.conditions.examples({})
        c = c.to(next(vae.parameters()))
        if name == "manifold":
            return plots.manifold(vae, c=c[:1], look=look)[0]
        return plots.conditions(vae, c, names, look=look)[0]
    if name == "prior_samples":
        title = "mean of p(x | z), z from the prior"
        if look.kind == "series":
            data = job.shown(fields_of(job.train.first(DRAWN)[:])[0])
            groups = {"data": data, "draws from the model": vae.sample(DRAWN)}
            return plots.beside(groups, title="data and draws", look=look)
        drawn = vae.sample(100, mean=True)
        return plots.grid(drawn, columns=10, title=title, look=look)
    if name == "manifold":
        return plots.manifold(vae, look=look)[0]
    index = evenly(2000, len(job.train))
    labels = (
        None if job.data.labels is None else job.data.labels["train"][index.numpy()]
    )
    return plots.scatter(vae.posterior_mean(job.train[index]), labels)


def _look(job: Job, vae: VAE) -> Any:
    """What pictures take the data for, and their scale."""
    from pyro_vae.plots.looks import LOOKED_AT, kind_of, look_of

    data = job.data
    table = table_of(data.schema, data.columns, data.shape, data.representation)
    usual = "table" if _by_column(job) else kind_of(data.shape)
    return look_of(
        vae.model.likelihood,
        job.shown(fields_of(job.train.first(LOOKED_AT)[:])[0]),
        kind=job.config.show_as or usual,
        columns=None if table is None else table.columns,
        stored=lambda x: job.bridge.inverse(x).detach().cpu().double().numpy(),
    )


def _before_and_after(job: Job, vae: VAE, folder: Path, field: str) -> Figure:
    """Samples under the prior that the pair had, and under its second one."""
    from pyro_vae import plots

    old: Any = read_pairs(folder, job.device)[0]["before"]
    old = OneField(old, field) if field else old
    pairs = {"before": old, "after": vae}
    if _by_column(job):
        table, stored = _as_table(job)
        x, c = fields_of(job.train.first(DRAWN)[:])
        under = None if c is None else c[torch.arange(DRAWN) % len(c)]
        drawn = {name: pair.sample(DRAWN, under) for name, pair in pairs.items()}
        tables = [stored(some) for some in (job.shown(x), *drawn.values())]
        names = ["data", *(f"draws {name}" for name in drawn)]
        title = "data, and draws under both priors"
        return plots.table_marginals(table.columns, tables, names, title=title)
    c = None
    if job.conditions is not None:
        c = job.conditions.examples({})[0].to(next(vae.parameters()))
        c = c[torch.arange(PICTURES) % len(c)]
    halves = []
    for pair in pairs.values():
        pyro.set_rng_seed(job.config.seed)
        halves.append(pair.sample(PICTURES, c, mean=True).unflatten(0, (-1, COLUMN)))
    gap = torch.full_like(halves[0][:, :1], math.nan)
    both = torch.cat([halves[0], gap, halves[1]], 1)
    title = "mean of p(x | z), z from the prior: before (left) and after (right)"
    look = _look(job, vae)
    columns = 2 * COLUMN + 1
    return plots.grid(both.flatten(0, 1), columns=columns, title=title, look=look)


def _as_table(job: Job) -> tuple[Any, Callable[[torch.Tensor], np.ndarray]]:
    """The columns of the data, and what makes stored values of what the model draws."""
    data = job.data
    table = table_of(data.schema, data.columns, data.shape, data.representation)
    assert table is not None

    def stored(x: torch.Tensor) -> np.ndarray:
        return job.bridge.inverse(x).cpu().double().numpy()

    return table, stored


def _table_figure(name: str, job: Job, vae: VAE) -> Figure:
    """A picture of a table: rows made again, or draws beside the data."""
    from pyro_vae import plots

    table, stored = _as_table(job)
    if name == "reconstructions":
        held_out = job.validation if job.validation is not None else job.train.fixed()
        rows = held_out.first(DRAWN)[:]
        x, made = job.shown(fields_of(rows)[0]), vae.reconstruct(rows)
        return plots.table_reconstructions(table.columns, stored(x), stored(made))
    draw = plots.table_pairs if name == "prior_pairs" else plots.table_marginals
    x, c = fields_of(job.train.first(DRAWN)[:])
    under = None if c is None else c[torch.arange(DRAWN) % len(c)]
    tables = stored(job.shown(x)), stored(vae.sample(DRAWN, under))
    names = ("data", "draws from p(x)" if c is None else "draws from p(x|c)")
    return draw(table.columns, tables, names, title="data and draws")


@alone()
@by_the_command_line
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    if (runs := _of_seeds(arguments)) is not None:
        train_all(runs)
        return
    config, resumed, dry, quiet = resolve(arguments)
    torch.backends.cudnn.deterministic = (
        True  # the same command gives the same bits on a GPU too
    )
    with started(config.device) as processes, ExitStack() as stack:
        with processes.jointly():
            job = prepare(config, resumed)
            _check_memory(job)
        _check_same(job)
        teller(quiet=quiet)(describe(job))
        if dry:
            print(_shapes(job.vae, job.spec.shape))
            print(f"\n{_toml(job, Path())}", end="")
            return
        folder = resumed
        with processes.jointly():
            if processes.first:
                folder = resumed or _folder(job.config)
                stack.enter_context(locked(folder))
        folder = processes.every(folder)[0]
        _train_and_draw(job, folder, resumed=resumed is not None, quiet=quiet)


def _of_seeds(arguments: Sequence[str]) -> Seeds | None:
    """The runs of several seeds; `None` where there is one run, or a dry one.

    All that can be wrong with them is found here, but for what only training finds.
    """
    given, words = without_seeds(arguments)
    resumed = None if given.resume is None else Path(given.resume)
    if resumed is not None and given.seeds is not None:
        raise InputError(
            f"--resume {resumed} goes on with the seeds that are there: leave --seeds out"
        )
    if resumed is not None and not is_run(resumed):
        runs = Seeds.resume(resumed, words)
        if runs is not None and given.dry_run:
            raise InputError(
                f"{resumed} holds the runs of several seeds: give one of them to --dry-run"
            )
        if runs is not None:
            resolve(runs.options(runs.seeds[0]))
        return runs
    if given.seeds is None or given.dry_run:
        return None
    if launch().world > 1:
        raise InputError(
            "--seeds starts processes itself: leave torchrun out, or train one seed at a time"
        )
    seeds = read_seeds(given.seeds)
    config, _, _, quiet = resolve(arguments)
    if config.seed != Config.seed:
        raise InputError(
            f"--seed {config.seed} is one, and --seeds {given.seeds} says them all: leave it out"
        )
    job = prepare(replace(config, seed=seeds[0]))
    teller(quiet=quiet)(describe(job))
    return Seeds(_folder_of_seeds(job.config, seeds), seeds, words)


def _folder_of_seeds(config: Config, seeds: Sequence[int]) -> Path:
    """The folder of several runs, made if need be."""
    if config.output is None:
        return _folder(config)
    folder = Path(config.output)
    if is_run(folder):
        raise InputError(
            f"{folder} holds one run: name another --output for the runs of --seeds"
        )
    runs = Seeds(folder, tuple(seeds), ())
    if (begun := runs.begun()) and not config.overwrite:
        raise InputError(
            f"{runs.place(begun[0])} holds a run already: go on with {option('resume', folder)}, "
            "name another --output, or add --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_same(job: Job) -> None:
    """Raise `InputError` where several processes do not have the same data, options and versions."""
    options = asdict(replace(job.config, device="", output=None))
    here().require_same(
        job.fingerprint,
        f"the processes do not have the same data: {job.data.source} differs between them",
    )
    here().require_same(
        (options, __version__, torch.__version__),
        "the processes do not have the same options or versions: start all with the same command",
    )


def _train_and_draw(job: Job, folder: Path, *, resumed: bool, quiet: bool) -> None:
    tell = teller(quiet=quiet)
    world = here().world
    where = f"{world} processes, the first on {job.device}" if world > 1 else job.device
    tell(f"run        {folder}, on {where}")
    started = time.perf_counter()
    finished = train(job, folder, resume=resumed, quiet=quiet)
    if not finished:
        again = command(
            "train", "--resume", folder, *trust(asdict(job.config), TRUSTED)
        )
        how = ", by torchrun as before" if here().several else ""
        print(f"stopped and saved; go on with: {again}{how}", flush=True)
        raise KeyboardInterrupt
    if not leave():
        return
    if (fitted := code_prior(job, folder)) is not None:
        tell(fitted)
    if job.config.from_ is not None and _older(folder / RECORD, folder):
        tell(f"\n{measure_gain(job, folder)}\n")
    vae, _, header = load_weights(folder / "best.safetensors")
    kind = "training" if job.validation is None else "validation"
    if math.isnan(header["score"]):
        chosen = f"weights of epoch {header['epoch']}, the last, as all lie inside the warm-up"
    else:
        chosen = f"best {kind} {_judged_by(job)} {header['score']:.2f} nats per datum, after epoch {header['epoch']}"
    if job.config.average is not None:
        chosen += ", of averaged weights"
    if resumed and not missing_figures(job, folder):
        print(
            f"nothing is missing: {folder} has had its epochs, and its figures are drawn; ask for more with "
            f"--epochs{'' if job.config.patience is None else ' or --patience'}"
        )
        return
    names = draw_figures(job, folder)
    _show_pictures(job, folder, names)
    for sentence in _card(folder, vae, header["epoch"]):
        tell(f"note: {sentence}")
    more = "" if job.config.from_ is None else f", {BEFORE}, {RECORD}"
    made = f"config.toml, metrics.csv, best.safetensors, last.safetensors{more}, {CARD}"
    tell("")
    print(
        f"done in {time.perf_counter() - started:.0f} s: {chosen}\n"
        f"{folder}: {made}, figures/ ({', '.join(names)})"
    )
    tell(f"next: {on_run('evaluate', folder)}")


def _show_pictures(job: Job, folder: Path, names: Sequence[str]) -> None:
    """Show the pictures of a run to the programs of `--log`."""
    assert job.config.epochs is not None
    epoch = len(read_metrics(folder / "metrics.csv", job.config.epochs))
    logs = _logs(job, folder)
    try:
        logs.begin(again=True)
        logs.pictures([folder / "figures" / name for name in names], epoch)
    except InputError as error:
        print(f"note: the pictures are not shown there: {error}")
    finally:
        logs.close()


if __name__ == "__main__":
    run("pyro_vae.train", main)
