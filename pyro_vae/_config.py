"""The options of a training run: one table for the command line, TOML files and the run folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pyro_vae.foundation.source import names

PRECISIONS = ("float32", "float64", "bf16")
COMPILE: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
YES_NO = ("yes", "no")
STREAM = {"auto": None, "yes": True, "no": False}
NAMED = names("data/named", "NAMED")
SCHEDULES = names("inference/schedules", "SCHEDULES")
OPTIMIZERS = names("inference/optimizers", "OPTIMIZERS")
PRODUCTS = names("engine/affine", "PRODUCTS")
BINARIZE = ("dynamic", "static", "threshold")


def _option(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Config:
    """Every option of a run, in the order of `--help`; each can stand in a TOML file under the same name."""

    dataset: str = _option(
        "digits",
        f"{', '.join(NAMED)}; or your own FILE.npy, .npz, .csv, or a FOLDER of images",
    )
    data_dir: str | None = _option(
        None, "folder with the files of named data sets (default: $PYRO_VAE_DATA)"
    )
    labels: str | None = _option(
        None,
        "labels of your own data: a file, a column of the .csv, or a name in the .npz",
    )
    condition: str | None = _option(
        None,
        "what the data are given and p(x|z,c) reads, as in sex,age=real: columns of a table, arrays of the .npz, "
        "or label for the labels",
    )
    condition_encoder: str = _option(
        "yes", "whether q(z|x) is given the condition too", YES_NO
    )
    header: str | None = _option(
        None,
        "whether a table begins with the names of its columns (default: found out)",
        YES_NO,
    )
    delimiter: str | None = _option(
        None, "sign between the cells of a table, or tab, or space (default: found out)"
    )
    decimal: str | None = _option(
        None,
        "sign before the decimals of a table's numbers (default: found out)",
        (".", ","),
    )
    drop: str | None = _option(
        None,
        "columns of a table, by name or number from 0, or arrays of the .npz that are no data, as in a,b; or none",
    )
    id: str | None = _option(None, "column of a table that names its rows")
    key: str | None = _option(
        None, "array of the .npz that holds the data (default: found out)"
    )
    layer: str | None = _option(
        None, "layer of the .h5ad that holds the data (default: X)"
    )
    channels: str | None = _option(
        None,
        "where arrays of images have their channels (default: last for (H, W, 3) and (H, W, 1))",
        ("first", "last"),
    )
    validation_fraction: float | None = _option(
        None, "share of the data held out to choose the best epoch"
    )
    test_fraction: float | None = _option(
        None, "share of the data held out for evaluation"
    )
    stream: str = _option(
        "auto",
        "leave a .npy file or a folder of images on disk; auto: where memory would run short",
        tuple(STREAM),
    )
    workers: int = _option(
        2, "processes that read ahead what is left on disk; 0: read when needed"
    )
    background: str | None = _option(
        None,
        "what lies below transparent images: white, black, another colour or #rrggbb",
    )
    missing: str | None = _option(
        None,
        "blanks, NA and nan in your own data: refuse them (default), or count what was seen",
        ("keep", "refuse"),
    )
    hide: float | None = _option(
        None,
        "hide this share of all values on purpose, in training and evaluation, to measure",
    )
    hide_seed: int = _option(0, "seed of which values are hidden")
    binarize: str | None = _option(
        None,
        "make bits of grey values: fresh at each visit, drawn once, or 1 above half",
        BINARIZE,
    )
    dequantize: bool = _option(
        False,
        "add uniform noise of one step to values on a lattice; grey levels are scaled to [0, 1]",
    )
    scale: bool = _option(False, "divide by the largest value")
    maximum: int | None = _option(
        None,
        "largest value of whole numbers (default: by the files, else by what occurs)",
    )
    structure: str = _option(
        "Vae()", "the formula of model and guide, see --help structure"
    )
    labelled: int | None = _option(
        None,
        "of a structure with classes: how many training data keep their labels, as many of each class, chosen by the "
        "seed (default: all that have one; of clusters none)",
    )
    prior: str | None = _option(
        None,
        "p(z), see --help prior (default: StandardNormal(), or that of the guide or the structure)",
    )
    network: str = _option("MLP()", "body of encoder and decoder, see --help network")
    likelihood: str | None = _option(
        None,
        "p(x|z), see --help likelihood (default: by what the data are; bernoulli for the named sets of images); of a "
        "table with columns of several kinds: columns, or age=poisson, income=gaussian, ...",
    )
    guide: str = _option("MeanField()", "q(z|x), see --help guide")
    objective: str | None = _option(
        None,
        "what is maximised, see --help objective; also any pyro.infer:Trace_ELBO(...) (default: ELBO(); of a "
        "structure with layers annealed over the first quarter of the epochs)",
    )
    corrupt: str | None = _option(
        None,
        "what encoders see in training in place of x, as in noise(0.3), see --help corrupt; densities are of x as it "
        "is",
    )
    stacked: int | None = _option(
        None,
        "epochs in which each hidden layer is trained by itself first, as an autoencoder of what lies below it",
    )
    latent_dim: int = _option(10, "length of z")
    dims: str | None = _option(
        None,
        "of a structure with layers z1, z2, ... their lengths, that next to the data first: 100,50",
    )
    epochs: int | None = _option(
        None, "passes over the data (default: 300 for digits, else 100)"
    )
    patience: int | None = _option(
        None, "stop after so many epochs without a better one, counted after a warm-up"
    )
    batch_size: int = _option(100, "data in a step")
    learning_rate: float = _option(1e-3, "rate before the schedule")
    schedule: str = _option(
        "constant",
        f"{', '.join(SCHEDULES)}; or with arguments, as in cosine(floor=0.01, warmup=0.05): all take warmup, the "
        "share of the run over which the rate rises from 0",
    )
    optimizer: str = _option(
        "adam",
        f"{', '.join(OPTIMIZERS).lower()}; or with arguments, as in sgd(momentum=0.9)",
    )
    weight_decay: float = _option(
        0.0,
        "times the rate: the share of themselves that weights of layers lose in each step",
    )
    clip_norm: float | None = _option(
        None, "shorten gradients that are longer, all together"
    )
    average: float | None = _option(
        None,
        "decay of an exponential moving average of the weights, as in 0.999: it is validated and kept in their place",
    )
    seed: int = _option(0, "seed of weights, data order and latents")
    device: str = _option("auto", "auto, cpu, cuda or mps")
    precision: str = _option("float32", "of the networks", PRECISIONS)
    compile: str = _option(
        "auto", "run steps as compiled graphs; auto: when it saves time", tuple(COMPILE)
    )
    products: str = _option(
        "auto",
        "library of float32 products on a CPU; auto: by the processor, and then kept by the run",
        ("auto", *PRODUCTS),
    )
    from_: str | None = _option(
        None,
        "a run of which everything but the prior is kept as it is: --from RUN --prior flow trains a second prior on "
        "its codes; what is not asked for is as in RUN",
    )
    output: str | None = _option(
        None,
        "run folder (default: runs/DATASET-LIKELIHOOD-..., by what is not as usual, numbered if taken)",
    )
    overwrite: bool = _option(False, "replace the run in --output")
    log: str | None = _option(
        None, "also tell tensorboard, mlflow or wandb of the run; several with commas"
    )
    figures: str = _option(
        "png", "formats of the figures, as in svg,pdf; .png is always one of them"
    )
    show_as: str | None = _option(
        None,
        "what pictures take the data for (default: by their shape)",
        ("image", "series", "table"),
    )


OPTIONS = {f.name: f for f in fields(Config)}
# The option with which each group of `--help` begins.
GROUPS = {
    "dataset": "data",
    "background": "values of the data",
    "structure": "model, guide and objective",
    "epochs": "training",
    "device": "machine",
    "from_": "run",
}
RESUMABLE = {
    "products",
    "compile",
    "epochs",
    "patience",
    "device",
    "data_dir",
    "log",
    "figures",
    "show_as",
    "stream",
    "workers",
}


# What may be asked for beside --from: the rest belongs to what is kept.
OF_A_SECOND_PRIOR = {
    *("from_", "prior", "objective", "epochs", "patience", "batch_size"),
    *("learning_rate", "schedule", "optimizer", "clip_norm", "average", "seed"),
    *("device", "data_dir", "stream", "workers", "compile", "products"),
    *("output", "overwrite", "log", "figures", "show_as"),
}
# Of these what is not taken from RUN where it is not asked for.
OF_ITS_OWN = {"prior", "objective", "output", "overwrite", "log", "weight_decay"}


def key(name: str) -> str:
    """What an option is called in a file; `from` is a word of Python's."""
    return name.rstrip("_")


def flag(name: str) -> str:
    """The command-line spelling of an option."""
    return f"--{key(name).replace('_', '-')}"


BY_KEY = {key(name): name for name in OPTIONS}
