"""A run as a model card, `README.md` in its folder: for a reader, and for the Hugging Face Hub."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae._config import BY_KEY, OPTIONS
from pyro_vae._evaluations import read_evaluation
from pyro_vae._metrics import read_metrics
from pyro_vae.data.bridges import Bridge
from pyro_vae.data.conditions import Conditions
from pyro_vae.data.files import few
from pyro_vae.data.representation import Representation
from pyro_vae.data.schema import KINDS, stored_columns
from pyro_vae.foundation.commands import trust
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import write_atomically
from pyro_vae.foundation.marked import block, has_blocks, updated
from pyro_vae.foundation.reading import read_json, read_toml
from pyro_vae.models.program import formula
from pyro_vae.models.vae import VAE
from pyro_vae.report.facts import NEEDED, Facts, warnings_of
from pyro_vae.runs import CARD, SPLITS, evaluations, on_run, public_name, read_resolved

OWN = "Text outside of the marked blocks is yours, and stays when training or evaluation write the blocks again."
COLUMNS = 30  # that are named one by one
ROOMS = ("summary", "numbers", "data", "model", "use", "training")


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    Attributes:
        folder: the run folder.
        vae: the pair of its best weights.
        epoch: after which these were kept.
        config: the content of `config.toml`.
        evaluated: the evaluations that can be read, by the names of their files without ending, the headline first.
    """

    folder: Path
    vae: VAE
    epoch: int
    config: dict[str, Any]
    evaluated: Mapping[str, dict[str, Any]]

    @property
    def resolved(self) -> dict[str, Any]:
        return read_resolved(self.folder / "config.toml")

    def option(self, name: str) -> Any:
        """What an option of training was."""
        return self.config.get(name, OPTIONS[BY_KEY[name]].default)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def dataset(self) -> str:
        return public_name(self.option("dataset"))

    @property
    def conditions(self) -> Conditions | None:
        columns = self.resolved.get("condition")
        return None if columns is None else Conditions.from_list(columns)

    @property
    def history(self) -> list[dict[str, float]]:
        return read_metrics(self.folder / "metrics.csv", 10**9)

    def bodies(self) -> dict[str, str]:
        """What each block says."""
        makers = (_summary, _numbers, _data, _model, _use, _training)
        each = {k: make(self) for k, make in zip(ROOMS, makers, strict=True)}
        return {"metadata": _metadata(self), **each}


def write_card(folder: Path, vae: VAE, epoch: int) -> list[str]:
    """Write the card of a run, or its blocks again; sentences about what stays as it is, because somebody wrote it.

    Args:
        folder: the run folder.
        vae: the pair of its best weights.
        epoch: after which these were kept.

    Raises:
        InputError: where the run cannot be read.
    """
    path, config = folder / CARD, read_toml(folder / "config.toml")
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    if old is not None and not has_blocks(old):
        return [
            f"{path} has no blocks of this package and stays as it is; move it away to get a card"
        ]
    card = Card(folder, vae, epoch, config, _evaluated(folder))
    bodies, changed = card.bodies(), list[str]()
    if old is None:
        front = f"---\n{block('metadata', bodies.pop('metadata'), yaml=True)}---\n\n"
        text = front + "\n".join(block(k, body) for k, body in bodies.items())
    else:
        bodies["metadata"] = _without(bodies["metadata"], _own_keys(old))
        text, changed = updated(old, bodies)
    if text != old:
        write_atomically(path, lambda beside: beside.write_text(text, "utf-8"))
    return [
        f"the block {name} of {path} was changed by hand and stays as it is; remove the block's content and marks, or "
        "the file, to have it written again"
        for name in changed
    ]


def _own_keys(text: str) -> set[str]:
    """The keys that a person has put into the YAML at the top."""
    front = re.match(r"---\n(.*?)^---$", text, re.DOTALL | re.MULTILINE)
    if front is None:
        return set()
    outside = updated(front[1], {"metadata": ""})[0]
    return set(re.findall(r"^([\w-]+):", outside, re.MULTILINE))


def _without(yaml: str, keys: set[str]) -> str:
    """Lines of YAML without some keys and what belongs to them."""
    entries = re.findall(r"^[\w-]+:.*\n(?:[ -].*\n)*", yaml, re.MULTILINE)
    return "".join(e for e in entries if e.partition(":")[0] not in keys)


def _evaluated(folder: Path) -> dict[str, dict[str, Any]]:
    """The evaluations whose numbers can be read, with their arrays under `columns`."""
    found = {}
    names = [name for split in (*SPLITS, "new") for name in evaluations(folder, split)]
    for name in sorted(names, key=lambda name: name != "evaluation"):
        try:
            result = read_evaluation(folder, name)
        except InputError:  # of a point, or damaged
            continue
        if all(isinstance(result.summary.get(key), dict) for key in NEEDED):
            found[name] = {**result.summary, "columns": result.columns}
    return found


def _rows(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    cells = [
        [" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows
    ]
    head, *others = [f"| {' | '.join(row)} |" for row in cells]
    rule = f"|{'---|' * len(rows[0])}"
    return "\n".join([head, rule, *others]) + "\n"


def _code(text: object) -> str:
    return f"`{text}`"


def _number(value: Any, places: int = 4) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:.{places}f}"


def _metadata(card: Card) -> str:
    """The YAML of a card of the Hugging Face Hub: what it is made with, and the number where there is one."""
    tags = ["pyro", "variational-autoencoder", "density-estimation"]
    lines = ["library_name: pyro_vae", "tags:", *(f"- {tag}" for tag in tags)]
    s = card.evaluated.get("evaluation")
    marginal = {} if s is None else s.get("log_marginal", {})
    value = marginal.get("mean")
    if s is None or s["epoch"] != card.epoch or not isinstance(value, float):
        return "\n".join(lines) + "\n"
    given = f"|{', '.join(s['given'])}" if s["given"] else ""
    lines += [
        "model-index:",
        f"- name: {json.dumps(card.name)}",
        "  results:",
        "  - task:",
        "      type: density-estimation",
        "    dataset:",
        f"      type: {json.dumps(s['dataset'])}",
        f"      name: {json.dumps(s['dataset'])}",
        f"      split: {s['split']}",
        "    metrics:",
        "    - type: log_likelihood",
        f"      name: {json.dumps(f'log p(x{given}), nats per datum')}",
        f"      value: {_number(value)}",
    ]
    return "\n".join(lines) + "\n"


def _summary(card: Card) -> str:
    kinds = (
        "autoencoder" if not card.vae.guide.has_density else "variational autoencoder"
    )
    text = formula(card.vae.model, card.vae.guide)
    return (
        f"# {card.name}\n\n"
        f"A {kinds} of {card.dataset}, {_code(text)}, made with pyro_vae.\n\n"
        f"<!-- {OWN} -->\n"
    )


def _numbers(card: Card) -> str:
    """All evaluations of the run, and what there is to doubt in the first."""
    title = "## Numbers\n\n"
    if not card.evaluated:
        if not card.vae.guide.has_density:
            return f"{title}{_of_a_point(card)}"
        return f"{title}None: this run has not been evaluated.\n"
    head = ("data", "log p", "± data", "± Monte Carlo", "ELBO", "how", "file")
    rows = [head, *(_row(card, name, s) for name, s in card.evaluated.items())]
    first, s = next(iter(card.evaluated.items()))
    facts = Facts(card.folder, s, s["columns"], card.config, card.history, {})
    doubts = [f"- {warned.sentence}" for warned in warnings_of(facts)]
    density = f"log p(x|{', '.join(s['given'])})" if s["given"] else "log p(x)"
    said = [
        f"Means of {density} in nats per datum, with standard errors over data and over draws. The data are seen as "
        f"{Representation[s['representation']].value}, {s['bridge']}.",
    ]
    if isinstance(s.get("bits_per_dimension"), float):
        bits, of = s["bits_per_dimension"], s["bits_per_dimension_of"]
        said.append(f"The first mean is {bits:.4f} bits per dimension ({of}).")
    if s.get("two_part"):
        said.append("The number is log p(x, code), a bound below log p(x).")
    below = f"\n{' '.join(said)}\n"
    if doubts:
        below += (
            f"\nWhat gives reason to doubt `{first}`:\n\n" + "\n".join(doubts) + "\n"
        )
    return f"{title}{_rows(rows)}{below}"


def _of_a_point(card: Card) -> str:
    """What stands in place of log p(x) where the guide has no density."""
    none = "The guide is a point for each datum, so that there is no log p(x).\n"
    try:
        s = read_json(card.folder / "evaluation.json")
        found = s["reconstructionerror"]["squared error of an element"]
        mean, error = _number(found["mean"]), _number(found["data_standard_error"])
        what = f"{s['data']} of {s['data_in_split']} {s['split']} data"
    except (InputError, KeyError, TypeError):
        return none
    return f"{none}\nMean squared error of an element: {mean} ± {error}, {what}.\n"


def _row(card: Card, name: str, s: Mapping[str, Any]) -> tuple[str, ...]:
    marginal, plan = s["log_marginal"], s.get("plan") or {}
    data = f"{s['dataset']}, {s['data']} of {s['data_in_split']} {s['split']}"
    by = str(s.get("weighting"))
    by = re.sub(r"(, )?num_particles=None(?(1)|(, )?)", "", by)
    count = plan.get("num_particles", s.get("num_particles"))
    how = f"{_code(by)}, {count} draws, seed {s.get('seed')}"
    if s["epoch"] != card.epoch:
        how += f", of the weights of epoch {s['epoch']}, which are no longer the best"
    errors = (marginal.get(f"{of}_standard_error") for of in ("data", "monte_carlo"))
    numbers = (marginal.get("mean"), *errors, (s.get("elbo") or {}).get("mean"))
    return (data, *map(_number, numbers), how, _code(f"{name}.json"))


def _data(card: Card) -> str:
    resolved, sizes = card.resolved, card.resolved["sizes"]
    counted = ", ".join(f"{sizes[split]} {split}" for split in SPLITS)
    shape = " × ".join(map(str, resolved["shape"])) or "1"
    rows = [
        ("", ""),
        ("name", card.dataset),
        ("data", f"{sum(sizes.values())}: {counted}"),
        ("a datum", f"{shape} values"),
        ("stored as", Representation[resolved["stored"]].value),
        ("seen as", Representation[resolved["representation"]].value),
        ("on the way", str(Bridge.from_dict(resolved))),
    ]
    if card.vae.model.likelihood.missing:
        rows.append(("missing values", "are left out of the density"))
    if card.conditions is not None:
        rows.append(("given", str(card.conditions)))
    known = {k: v for k, v in resolved["fingerprint"].items() if k in ("whole", "test")}
    rows += [(f"fingerprint, {k}", _code(v)) for k, v in known.items()]
    return f"## Data\n\n{_rows(rows)}{_columns(card)}"


def _columns(card: Card) -> str:
    """The columns of a table, with their kinds where these differ."""
    names = card.resolved.get("columns")
    if not names:
        return ""
    table = card.resolved.get("table")
    if table is None:
        more = f" and {len(names) - COLUMNS} more" if len(names) > COLUMNS else ""
        return f"\nColumns: {', '.join(map(_code, names[:COLUMNS]))}{more}.\n"
    schema: Any = stored_columns(card.resolved)
    rows = [("column", "kind", "categories")]
    for column in schema.columns[:COLUMNS]:
        some = few(column.categories, COLUMNS)
        rows.append((_code(column.name), KINDS[column.kind], some))
    beyond = len(schema.columns) - COLUMNS
    below = f"\nand {beyond} more columns.\n" if beyond > 0 else ""
    return f"\n{_rows(rows)}{below}"


def _model(card: Card) -> str:
    vae, config = card.vae, card.config
    count = {
        part: sum(p.numel() for p in module.parameters())
        for part, module in (("model", vae.model), ("guide", vae.guide))
    }
    rows = [
        ("", ""),
        ("formula", _code(formula(vae.model, vae.guide))),
        *((axis, _code(config[axis])) for axis in AXES if axis in config),
        ("latents", str(vae.model.latent_dim)),
        ("parameters", f"{count['model']:,} of p, {count['guide']:,} of q"),
    ]
    return f"## Model\n\n{_rows(rows)}"


AXES = ("structure", "prior", "likelihood", "guide", "network", "objective")


def _training(card: Card) -> str:
    option, history = card.option, card.history
    versions = {
        "pyro_vae": card.resolved["version"],
        **card.resolved.get("versions", {}),
    }
    seconds = math.fsum(row.get("seconds", 0.0) for row in history)
    rows = [
        ("", ""),
        ("epochs", f"{len(history)} of {option('epochs')}, {seconds:.0f} s"),
        ("weights", f"of epoch {card.epoch}{_score(card)}"),
        ("batch size", str(option("batch_size"))),
        ("optimizer", _code(option("optimizer"))),
        ("learning rate", f"{option('learning_rate'):g}, {option('schedule')}"),
        ("precision", option("precision")),
        ("seed", str(option("seed"))),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
    ]
    more = ("average", "clip_norm", "weight_decay", "patience", "corrupt", "stacked")
    rows += [(k.replace("_", " "), str(option(k))) for k in more if option(k)]
    return f"## Training\n\n{_rows(rows)}"


def _score(card: Card) -> str:
    """What the weights were chosen by."""
    row = next((r for r in card.history if r["epoch"] == card.epoch), None)
    if row is None or not math.isfinite(row.get("score", math.nan)):
        return ""
    held = "validation" if card.resolved["sizes"]["validation"] else "training"
    return f", the best on {held} data, {row['score']:.2f} nats per datum"


def _use(card: Card) -> str:
    """Commands and Python that work in the folder of the card."""
    given, required = _given(card), card.conditions and card.conditions.required
    words = [f"--given={name}={value}" for name, value in given.items()]
    trusted = bool(trust(card.config))
    opened = f'open_run("."{", trust=True" if trusted else ""})'
    draws = f"run.sample(5, {given})" if required else "run.sample(5)"
    see = f"run.see(values, {_repeated(given)})" if required else "run.see(values)"
    commands = [
        on_run("sample", card.folder, "--kind", "prior", *words, place="."),
        on_run("encode", card.folder, "--data", "FILE", place="."),
        on_run("evaluate", card.folder, "--data", "FILE", place="."),
    ]
    code = [
        "from pyro_vae import log_marginal, open_run",
        "from pyro_vae.encode import encode",
        "",
        f"run = {opened}",
        f"values = {draws}  # draws from the model, in the units of the data",
        f"x = {see}  # data as the model sees them",
        "mean, std = encode(run.vae, x)  # of q(z|x)",
    ]
    if card.vae.guide.has_density:
        code.append("log_p = log_marginal(run.vae.model, run.vae.guide, x)")
    install = "With pyro_vae installed, in the folder of this card"
    return (
        f"## Use\n\n{install}, where `FILE` holds data as those above:\n\n"
        + "```bash\n"
        + "\n".join(commands)
        + "\n```\n\n```python\n"
        + "\n".join(code)
        + "\n```\n"
        + (
            "\nThe run names code of other modules: `--trust` and `trust=True` run it.\n"
            if trusted
            else ""
        )
    )


def _given(card: Card) -> dict[str, Any]:
    """A usual value of each condition that has to be given."""
    conditions = card.conditions
    if conditions is None:
        return {}
    columns = [conditions.column(name) for name in conditions.required]
    return {
        c.name: c.usual if c.categories else float(f"{c.usual:.4g}") for c in columns
    }


def _repeated(given: Mapping[str, Any]) -> str:
    """Conditions of five data, as Python."""
    return "{" + ", ".join(f"{k!r}: [{v!r}] * 5" for k, v in given.items()) + "}"
