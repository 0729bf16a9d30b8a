"""`pyro-vae runs FOLDER ...`: a table of the runs below a folder; without torch."""

import csv
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pyro_vae._cli.options import runs_parser
from pyro_vae._config import BY_KEY, OPTIONS, key
from pyro_vae._methods import OPTION_NAMES, differences, options_of
from pyro_vae.foundation.checks import shown as quoted
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import holder
from pyro_vae.foundation.reading import LARGEST, read_json, read_toml, reading
from pyro_vae.foundation.terminal import in_columns, printable, width_of_terminal
from pyro_vae.runs import description, evaluations, headline, public_name, shown

WEIGHTS = ("last.safetensors", "best.safetensors")
OWN_COLUMNS = ("structure", "epochs")  # options that stand in every row
FORMULA = re.compile(
    r"""Formula\(text=(['"])(.*)\1\)"""
)  # a structure that is written out
FINISHED, RUNNING, STOPPED, BROKEN = "finished", "running", "stopped", "broken"


@dataclass
class Row:
    """A run as it is listed; what is not known is None.

    Attributes:
        folder: as it can be given to the other programs.
        state: `finished`, `running` (its folder is locked), `stopped` (`--resume` goes on) or `broken`.
        data: the name of a named data set, or of a file without its folder.
        structure: the member, or the formula as it was written.
        differs: options in which the listed runs differ, as in `guide=IAF, latent_dim=20`.
        done, epochs: whole epochs done, and asked for.
        elbo: of the best epoch, in nats per datum, on validation data.
        elbo_of: `validation`, or `training` where there are no validation data.
        log_p: mean log p(x) of the evaluated data, in nats per datum, `standard_error` over the data.
        evaluated: how many data that was.
        date: when the last epoch was written.
        notes: what is wrong.
        options: those of the run.
    """

    folder: str
    state: str
    data: str
    structure: str
    differs: str = ""
    done: int | None = None
    epochs: int | None = None
    elbo: float | None = None
    elbo_of: str | None = None
    log_p: float | None = None
    standard_error: float | None = None
    evaluated: int | None = None
    date: str | None = None
    notes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def candidates(folders: Sequence[Path]) -> Iterator[Path]:
    """Folders that may be runs, each once, in order; nothing inside a run, no hidden folder, nothing behind a link."""
    seen: set[Path] = set()
    for start in folders:
        for place, inside, files in os.walk(start):
            inside.sort()
            inside[:] = [name for name in inside if not name.startswith(".")]
            path = Path(place)
            if not {"config.toml", *WEIGHTS} & set(files) and holder(path) is None:
                continue
            if description(path) is not None:
                inside.clear()
            if (there := path.resolve()) not in seen:
                seen.add(there)
                yield path


def why_none(folder: Path) -> str:
    """Why a folder that looks like a run is none."""
    if (trainer := holder(folder)) is not None:
        return f"{trainer} begins a run in it"
    if not (folder / "config.toml").exists():
        return "it has weights and no config.toml"
    try:
        read_toml(folder / "config.toml")
    except InputError as error:
        return str(error)
    return "its config.toml is none that training writes"


def row_of(folder: Path, config: Mapping[str, Any], split: str) -> Row:
    """What a run folder says of itself; whatever cannot be read is a note."""
    options = {k: v for k, v in config.items() if k != "resolved"}
    structure = str(options.get("structure", OPTIONS["structure"].default))
    formula = FORMULA.fullmatch(structure)
    row = Row(
        str(shown(folder)),
        STOPPED,
        _data(options),
        formula[2] if formula else structure.removesuffix("()"),
        options=options,
        epochs=_whole(options.get("epochs")),
    )
    best = _training(row, folder, config)
    if holder(folder) is not None:
        row.state = RUNNING
    try:
        _evaluation(row, folder, split, best)
    except InputError as error:
        row.notes.append(str(error))
    return row


def _data(options: Mapping[str, Any]) -> str:
    dataset = options.get("dataset", OPTIONS["dataset"].default)
    try:
        return public_name(str(dataset))
    except (InputError, OSError, ValueError):
        return str(dataset)


def _training(row: Row, folder: Path, config: Mapping[str, Any]) -> int | None:
    """Put into a row what the last checkpoint says; gives the best epoch."""
    last = folder / WEIGHTS[0]
    try:
        progress = _progress(last)
    except InputError as error:
        row.state = BROKEN
        row.notes.append(str(error))
        return None

    # How far it is.
    row.done = _whole(progress.get("epoch"))
    patience, waited = _whole(config.get("patience")), _whole(progress.get("waited"))
    patient = patience is None or waited is None or waited < patience
    enough = None not in (row.done, row.epochs) and row.done >= row.epochs  # type: ignore[operator]
    if not progress.get("position") and (enough or not patient):
        row.state = FINISHED
    with reading(last, "a checkpoint"):
        changed = datetime.fromtimestamp(last.stat().st_mtime)
    row.date = changed.isoformat(" ", "seconds")

    # How good it is.
    row.elbo = _number(progress.get("best_elbo"))
    sizes = config["resolved"].get("sizes")
    held = sizes.get("validation") if isinstance(sizes, dict) else None
    if row.elbo is not None:
        row.elbo_of = "validation" if held else "training"
    return _whole(progress.get("best_epoch"))


def _progress(path: Path) -> dict[str, Any]:
    """Where a training stands, from the header of its last checkpoint.

    Raises:
        InputError: where the file is missing, cut off or another's.
    """
    with reading(path, "a checkpoint"), path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, LARGEST):
            raise ValueError("it is damaged")
        header = json.loads(file.read(length))
        said = json.loads(header.pop("__metadata__")["pyro_vae"])
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError("it is cut off")
        progress = said["progress"]
        if not isinstance(progress, dict):
            raise ValueError("it does not say where training stands")
        return progress


def _evaluation(row: Row, folder: Path, split: str, best: int | None) -> None:
    """Put log p(x) into a row: that of the headline, or of the only evaluation of the split."""
    there = evaluations(folder, split)
    if not there or (headline(split) not in there and len(there) > 1):
        return
    path = folder / f"{there[0]}.json"
    found = read_json(path)
    marginal = found.get("log_marginal") if isinstance(found, dict) else None
    if marginal is None and isinstance(found, dict) and "data" in found:
        return  # of a guide that is a point
    if not isinstance(marginal, dict):
        raise InputError(f"the file {path} is damaged: it is no evaluation")
    row.log_p = _number(marginal.get("mean"))
    row.standard_error = _number(marginal.get("data_standard_error"))
    row.evaluated = _whole(found.get("data"))
    if row.evaluated != found.get("data_in_split"):
        row.notes.append(
            f"log p(x) is of {row.evaluated} of {found.get('data_in_split')} {split} data"
        )
    if found.get("two_part"):
        row.notes.append("log p(x) is log p(x, code), a bound below it")
    by_best = found.get("checkpoint", "best") == "best"
    if by_best and best is not None and found.get("epoch") != best:
        row.notes.append(
            f"log p(x) is of epoch {found.get('epoch')}, and the best one is now {best}: evaluate again"
        )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def wanted(text: str) -> tuple[str, str]:
    """`KEY=VALUE` of `--where` as two words.

    Raises:
        InputError: for another form, or a key that no run has.
    """
    name, sign, value = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_").lower()
    if not (name and sign and value.strip()):
        raise InputError(
            f"--where {quoted(text)} must be of the form KEY=VALUE, as in guide=fullrank"
        )
    known = (*BY_KEY, "data", "state", "name")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"--where {quoted(text)}: no run has an option {name}{hint}")
    return name, value.strip()


def has(row: Row, name: str, value: str) -> bool:
    """Whether a run has this option or column: a member by its name alone, or with all of its arguments."""
    columns = {"data": row.data, "state": row.state, "name": Path(row.folder).name}
    if name in columns:
        return columns[name].lower() == value.lower()
    option = OPTIONS[BY_KEY[name]]
    there = row.options.get(key(option.name), option.default)
    spelled = [_spelled(str(there)), _spelled(str(there).partition("(")[0])]
    if _spelled(value) in spelled:
        return True
    try:
        return float(value) == float(there)
    except (TypeError, ValueError):
        return False


def _spelled(text: str) -> str:
    plain = text.lower().replace(" ", "").replace("-", "").replace("_", "")
    return plain.replace('"', "'").removesuffix("()")


def compare_options(rows: Sequence[Row]) -> None:
    """Put into each row in what it differs from the others."""
    names = [name for name in OPTION_NAMES if name not in OWN_COLUMNS]
    kept = [OPTION_NAMES.index(name) for name in names]
    found = []
    for row in rows:
        every = options_of(row.options)
        seed = row.options.get("seed", OPTIONS["seed"].default)
        found.append((*(every[i] for i in kept), str(seed)))
    for row, text in zip(rows, differences(found, [*names, "seed"]), strict=True):
        row.differs = text


def in_order(rows: Iterable[Row], by: str | None) -> list[Row]:
    """Rows sorted by a column, what has none last; see `--sort`."""
    rows = sorted(rows, key=lambda row: row.folder)
    words = {"name": "folder", "data": "data", "state": "state"}
    if by in words:
        return sorted(rows, key=lambda row: getattr(row, words[by]))
    if by == "date":
        return sorted(rows, key=lambda row: row.date or "", reverse=True)
    numbers = {"log_p": "log_p", "elbo": "elbo", "epochs": "done"}
    if by in numbers:
        return sorted(rows, key=lambda row: _falling(getattr(row, numbers[by])))
    best = [row.elbo if row.log_p is None else row.log_p for row in rows]
    pairs = sorted(
        zip(rows, best, strict=True), key=lambda p: (p[0].data, _falling(p[1]))
    )
    return [row for row, _ in pairs]


def _falling(value: float | None) -> float:
    return math.inf if value is None else -value


def table(rows: Sequence[Row], others: Mapping[str, str]) -> str:
    """The runs as a table for a person, and notes below it."""
    head = ("run", "state", "data", "structure", "epochs", "ELBO", "log p(x)", "date")
    lines: list[tuple[str, ...]] = [(*head, "differs in")]
    for row in rows:
        done = "?" if row.done is None else str(row.done)
        log_p = "" if row.log_p is None else f"{row.log_p:.2f}"
        error = row.standard_error
        lines.append(
            (
                row.folder,
                row.state,
                row.data,
                row.structure,
                f"{done}/{'?' if row.epochs is None else row.epochs}",
                "" if row.elbo is None else f"{row.elbo:.2f}",
                log_p if error is None or not log_p else f"{log_p} ± {error:.2f}",
                (row.date or "")[:16],
                row.differs,
            )
        )
    lines = [tuple(printable(cell) for cell in line) for line in lines]
    numbers = [head.index(name) for name in ("epochs", "ELBO", "log p(x)")]
    columns = [*zip(*lines, strict=True)]
    text = in_columns(columns, numbers, width_of_terminal())
    notes = [f"{row.folder}: {note}" for row in rows for note in row.notes]
    notes += [
        f"{row.folder}: the ELBO is of training data, as there are no validation data"
        for row in rows
        if row.elbo_of == "training"
    ]
    notes += [f"{folder} is no run: {reason}" for folder, reason in others.items()]
    below = [f"note: {printable(note)}" for note in notes]
    return "\n".join(
        [*(text if rows else []), *([""] if rows and below else []), *below]
    )


def _as_csv(rows: Sequence[Row]) -> None:
    columns = [name for name in Row.__dataclass_fields__ if name != "options"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: getattr(row, name) for name in columns}
        writer.writerow({**cells, "notes": "; ".join(row.notes)})


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = runs_parser().parse_intermixed_args(arguments)
    conditions = [wanted(text) for text in options.where]
    folders = [Path(os.path.expanduser(name)) for name in options.folders or ["."]]
    for folder in folders:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise InputError(f"the folder {folder} {what}")

    # What is there.
    rows, others = [], {}
    for folder in candidates(folders):
        config = description(folder)
        if config is None:
            others[str(shown(folder))] = why_none(folder)
        else:
            rows.append(row_of(folder, config, options.split))
    found = len(rows)
    rows = [row for row in rows if all(has(row, *pair) for pair in conditions)]
    compare_options(rows)
    rows = in_order(rows, options.sort)

    # What is said.
    if options.json:
        told = {"runs": [asdict(row) for row in rows], "others": others}
        print(json.dumps(told, indent=2, default=str))
    elif options.csv:
        _as_csv(rows)
    else:
        if not rows:
            where = ", ".join(map(str, folders))
            print(
                f"none of {found} runs below {where} is such"
                if found
                else f"no runs below {where}"
            )
        if text := table(rows, {} if conditions else others):
            print(text)
