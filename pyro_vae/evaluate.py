"""`python -m pyro_vae.evaluate RUN`: the marginal log-likelihood of a trained run, with its errors."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.evaluate")  # before anything that takes time

from pyro_vae._cli.options import answer, evaluate_parser

if __name__ == "__main__":
    answer(evaluate_parser())  # before the imports, which take seconds

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch

from pyro_vae import __version__
from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import formats, run
from pyro_vae._cli.outputs import Make, draw, put_each, reason
from pyro_vae._cli.questions import questions
from pyro_vae._cli.scores import (
    as_csv,
    check_tables,
    identity,
    scores,
    table_files,
)
from pyro_vae._cli.telling import teller
from pyro_vae._evaluations import digest, plan_of, stem_of
from pyro_vae._rows import NEW, Rows, new_rows, own_rows, plain
from pyro_vae.checkpoint import checkpoint_path, is_older, load_weights
from pyro_vae.data.holes import share_missing
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.representation import Representation
from pyro_vae.engine.processes import here, leave, started
from pyro_vae.evaluation.bracket import Bracket, usual_bracket
from pyro_vae.evaluation.by_column import ColumnTable
from pyro_vae.evaluation.classes import Classification
from pyro_vae.evaluation.fields import FieldTable
from pyro_vae.evaluation.latents import Latents
from pyro_vae.evaluation.question import Answer, Evaluated, Question, on_host
from pyro_vae.evaluation.reconstruction import ReconstructionError
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.evaluation.targets import Regression
from pyro_vae.evaluation.weighting import Weighted, Weighting
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.errors import InputError, LostError, one_line
from pyro_vae.foundation.files import (
    Write,
    refuse_link,
    require_writable,
    subfolder,
    together,
    write_atomically,
)
from pyro_vae.foundation.trust import by_the_command_line
from pyro_vae.runs import (
    CARD,
    check_output,
    headline,
    on_run,
    public_command,
    public_path,
)
from pyro_vae.trained import Run

if TYPE_CHECKING:
    import pandas

__all__ = ["main"]


@contextmanager
def _progress(
    unit: str, total: int | None, *, quiet: bool = False
) -> Iterator[Callable[[int], Any]]:
    """What to call with the number of units done since the last call: it moves a bar, if there is a terminal."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        unit=f" {unit}",
        unit_scale=True,
        leave=False,
        disable=quiet or None,
    ) as bar:
        yield bar.update


def _facts(opened: Run, rows: Rows, result: LogMarginal | None) -> dict[str, Any]:
    """What was evaluated, and log p(x), if there is one, in bits: how `evaluation.json` begins."""
    bridge = opened.bridge
    stored = Representation[opened.config["resolved"]["stored"]]
    may_miss = opened.vae.model.likelihood.missing
    missing = share_missing(fields_of(rows.x)[0]) if may_miss else 0.0
    # Those that were seen, on average.
    dimensions = math.prod(opened.spec.shape) * (1 - missing)
    bits = {}
    if result is not None:
        bits = {
            "bits_per_dimension": result.bits_per_dimension(dimensions, bridge.levels),
            "bits_per_dimension_of": bridge.counted(stored),
        }
    return {
        "run": public_path(opened.folder),
        "epoch": opened.epoch,
        "dataset": rows.dataset,
        "fingerprint": rows.fingerprint,
        "split": rows.split,
        "data": len(rows.x),
        "data_in_split": rows.total,
        "missing": missing,
        "representation": bridge.result(stored).name,
        "bridge": str(bridge),
        **bits,
        "given": _given(opened),
        "spec": opened.spec.to_dict(),
        "latents": None,
    }


PARTLY = (
    "{share:.3g} % of the values are missing: each log p(x) is that of what was seen of the datum, log p(x_seen), and "
    "bits are those of a value that was seen."
)


def _opening(s: Mapping[str, Any], answer: Answer | None) -> str:
    """What was evaluated, and what its log p(x) is, for a person; of a point there is none."""
    what = (
        f"{s['dataset']}, {s['data']} of {s['data_in_split']} {s['split']} data, weights of epoch {s['epoch']}\n"
        f"seen as {Representation[s['representation']].value}, {s['bridge']}"
    )
    if answer is None:
        return f"{what}\n{POINT}"
    most = "at most " if s.get("two_part") else ""
    bits = f"bits per dimension: {most}{s['bits_per_dimension']:.4f} ({s['bits_per_dimension_of']})"
    holes = [PARTLY.format(share=100 * s["missing"])] if s["missing"] else []
    said = replace(answer, sentences=[*holes, bits, *answer.sentences])
    return f"{what}\n{_density(s['given'])}\n{said}"


def _result(s: Mapping[str, Any]) -> str:
    """What an evaluation came to, in one line."""
    of = f"{s['data']} of {s['data_in_split']} {s['split']} data"
    marginal = s.get("log_marginal")
    if marginal is None:
        return f"no log p(x), as the guide is a point: {of}"
    mean, error = marginal["mean"], marginal["data_standard_error"]
    given = f"|{', '.join(s['given'])}" if s["given"] else ""
    told = f"{mean:.4f}" if error is None else f"{mean:.4f} ± {error:.4f}"
    return f"log p(x{given}) {told} nats per datum, {of}"


POINT = (
    "the guide is a point for each datum, without a density to weigh draws by: there is no log p(x), and what follows "
    "says how well data are made again"
)


def _given(opened: Run) -> list[str]:
    """What the density is given, beside z."""
    columns = [] if opened.conditions is None else [*opened.conditions.required]
    return [*columns, TOTAL] if opened.vae.model.likelihood.sized else columns


TOTAL = "the total count"  # of each datum


def _density(given: Sequence[str]) -> str:
    """Of which density the numbers are, where that is not p(x), as a line of its own."""
    if not given:
        return ""
    return f"given c ({', '.join(given)}): log p(x) below is log p(x|c)\n"


def _json(value: Any) -> Any:
    """The same value with everything that JSON has no word for (inf, nan) as null."""
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _options(arguments: Sequence[str]) -> Any:
    options = evaluate_parser().parse_args(arguments)
    if options.netcdf is not None:
        options.netcdf = Path(options.netcdf)
        check_output(options.netcdf, "--netcdf")
    check_tables(options)
    if options.labels is not None and options.data is None:
        raise InputError(
            "--labels goes with new data; name their file with --data FILE"
        )
    return options


def _chosen(opened: Run, options: Any) -> Rows:
    """The rows that are evaluated: of new data all, else a split of the run's own."""
    new = None
    if options.data is not None:
        new = new_rows(opened, options.data, options.labels)
    if new is not None and options.split is not None:
        raise InputError(
            f"{options.data} is new to the run: all of its rows are taken, and --split {options.split} cannot be used"
        )
    rows = own_rows(opened, options.split or "test") if new is None else new
    options.split = rows.split
    return rows.first(options.limit)


def _opened(
    options: Any, first: Weighting, further: Sequence[Question]
) -> tuple[Run, Rows, Evaluated]:
    """The run, the rows of it, and these as the questions see them; whatever can be refused is."""
    opened = asked(options)
    every = [*further] if _is_point(opened, first) else [first, *further]
    if len(every) == len(further):
        _check_point(options)
    rows = _chosen(opened, options)
    called = f"{rows.dataset} {rows.split}"
    settings = (options.limit, options.num_particles, options.memory * 2**20)
    more: dict[str, Any] = {"whole": rows.whole, "labels": rows.labels}
    more["columns"] = rows.columns
    data = Evaluated(rows.x, rows.rows, called, rows.names, *settings, **more)
    for question in every:
        question.check(opened, data)
    refuse_link(opened.folder / "figures")
    require_writable(opened.folder)
    opened.announce()
    return opened, rows, data


def _is_point(opened: Run, first: Weighting) -> bool:
    """Whether there is no log p(x) to weigh, and none was asked for in a way of its own."""
    plain = first.unasked or str(first) == str(Weighted())
    return plain and not opened.vae.guide.has_density


def _check_point(options: Any) -> None:
    """Raise `InputError` for files that hold log p(x), of a run that has none."""
    for name in ("report", "netcdf"):
        if getattr(options, name):
            raise InputError(
                f"--{name} is about log p(x), and the guide of the run is a point for each datum, which has none; "
                "leave it out"
            )


class _Files:
    """What the answers of an evaluation come to: the content of its .json and .npz files, and its figures.

    Attributes:
        s: the content of the .json file.
        columns: the arrays, each `(N,)`.
        figures: what makes each, by the name of its file.
    """

    def __init__(self, s: dict[str, Any], columns: Mapping[str, Any]) -> None:
        self.s, self.columns = s, dict(columns)
        self.size = s["data"]
        self.figures: dict[str, Make] = {}

    def begin(self, first: Weighting, answer: Answer) -> None:
        """Put the answer about log p(x) before all others."""
        self.s |= {**answer.numbers, "weighting": str(first)}
        self.s["warnings"] += answer.warnings
        self.s["captions"] |= {name: d.caption for name, d in answer.figures.items()}
        self.columns |= _columns(first, answer, self.size)
        self.figures |= {name: d.make for name, d in answer.figures.items()}

    def add(self, question: Question, answer: Answer) -> None:
        """Put an answer under the name of its question, or under the first number behind it that is free."""
        key = self._free(question.key, self.s)
        self.s[key] = {"question": str(question), **answer.to_dict()}
        self.columns |= _columns(question, answer, self.size, f"{key}_")
        for part in (answer, *answer.parts.values()):
            for name, drawing in part.figures.items():
                self.figures[self._free(name, self.figures)] = drawing.make

    @staticmethod
    def _free(name: str, taken: Mapping[str, Any]) -> str:
        count = 2
        found = name
        while taken.get(found) is not None:
            found, count = f"{name}{count}", count + 1
        return found


def _columns(
    question: Question, answer: Answer, size: int, before: str = ""
) -> dict[str, Any]:
    """The arrays of an answer, once each has a number for each datum."""
    columns = {
        f"{before}{k}": plain(np.asarray(on_host(v))) for k, v in answer.columns.items()
    }
    for name, column in columns.items():
        if column.shape != (size,):
            raise InputError(
                f"{question} answers with a column {name!r} of shape {column.shape} for {size} data"
            )
    return columns


def _with_usual(
    opened: Run, data: Evaluated, first: Weighting, further: list[Question]
) -> list[Question]:
    """The questions, with those about columns, fields, classes and targets, where there are any; not asked twice."""
    guide = opened.vae.guide
    if _is_point(opened, first):
        return [ReconstructionError(), *(q for q in further if not _again(q))]
    asked = {type(question) for question in further}
    usual: list[Question] = []
    if first.unasked and Bracket not in asked:
        bracket = usual_bracket(opened, data)
        further = further if bracket is None else [bracket, *further]
    if opened.vae.classes and guide.has_density:
        usual.append(Classification())
    if opened.vae.label_width == 1 and guide.has_density:
        usual.append(Regression())
    if opened.schema is not None and guide.has_density and guide.amortised:
        usual.append(ColumnTable())
    if opened.several and guide.has_density:
        usual.append(FieldTable())
    usual = [question for question in usual if type(question) not in asked]
    for question in usual:
        question.unasked = True
    return [*further, *usual]


@alone()
@by_the_command_line
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = _options(arguments)
    first, further = questions(options)
    with started(options.device):
        _evaluate(arguments, options, first, further)


def _evaluate(
    arguments: Sequence[str],
    options: Any,
    first: Weighting,
    further: list[Question],
) -> None:
    """Ask the questions, print what they are answered with, and write it."""
    # Questions may draw to see whether they can be asked.
    with here().jointly(), here().alike():
        opened, rows, data = _opened(options, first, further)
    here().require_same(
        (rows.fingerprint, vars(options), _versions()),
        "the processes do not have the same data, options or versions: start all with the same command",
    )
    further = _with_usual(opened, data, first, further)
    pyro.set_rng_seed(options.seed)
    tell = teller(quiet=options.quiet)
    progress = partial(_progress, quiet=options.quiet)

    # The log-likelihood, which every later question may look at; under a point the reconstruction stands in its place.
    answer = result = None
    if not _is_point(opened, first):
        answer = first.ask(opened, data, progress)
        result = next(r for r in answer.rows.values() if isinstance(r, LogMarginal))
    s = _facts(opened, rows, result) | {"warnings": [], "captions": {}}
    files = _Files(s, identity(rows))
    if answer is not None:
        files.begin(first, answer)
    tell(_opening(s, answer))

    # The other questions.
    data = replace(data, log_marginal=result)
    refused: list[str] = []
    for question in further:
        if isinstance(question, Latents) and int(data.sound.sum()) < 2:
            continue
        answer, why_not = _asked(question, opened, data, files, progress)
        refused += why_not
        if not why_not:
            tell(f"\n{answer}")

    # The files, which the first of several processes writes.
    if not leave():
        return
    plan = plan_of(options, first, further)
    s |= {"plan": plan, "seed": options.seed, "checkpoint": options.checkpoint}
    s |= {"versions": _versions(), "command": public_command("evaluate", arguments)}
    stem = stem_of(opened.folder, plan, s)
    each = scores(files.columns, rows.split)
    written = _write(
        opened.folder, stem, s, files.columns, each if rows.split == NEW else None
    )
    told, failed = put_each({**table_files(each, options), **_netcdf(result, options)})
    drawn, not_drawn = _draw(opened, stem, s, files.figures, options.figures)
    page, no_page = _report(opened, stem, rows, options) if options.report else ([], [])
    noted, no_card = _card(opened)
    written += [*told, *drawn, *page]
    failed += [*no_page, *no_card]
    tell("")
    for sentence in noted:
        tell(f"note: {sentence}")
    if options.quiet:
        print(_result(s))
    print(f"written: {', '.join(map(str, written))}")
    if rows.split != NEW and stem != headline(rows.split):
        tell(_beside(opened.folder, rows.split))
    tell(f"next: {_next(opened, rows, options)}")
    refused += [f"not written: {', '.join(failed)}"] if failed else []
    refused += [f"not drawn: {', '.join(not_drawn)}"] if not_drawn else []
    if refused:
        raise InputError(
            f"the evaluation is done and written to {written[0]}, but {'; '.join(refused)}"
        )


def _asked(
    question: Question, opened: Run, data: Any, files: "_Files", progress: Any
) -> tuple[Any, list[str]]:
    """The answer to a question, kept in the files, or why there is none: what was answered before is worth its time."""
    try:
        answer = question.ask(opened, data, progress)
        files.add(question, answer)
    except LostError:
        raise
    except InputError as error:
        return None, [f"{question} has no answer: {one_line(error)}"]
    return answer, []


def _again(question: Question) -> bool:
    """Whether a question is what a point is asked anyway, or, unasked, about a posterior that it does not have."""
    return isinstance(question, ReconstructionError) or str(question) == str(Latents())


def _netcdf(result: LogMarginal | None, options: Any) -> dict[Path, Write]:
    """By the file that `--netcdf` names, what writes the values to it."""

    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert result is not None
            result.to_arviz().to_netcdf(str(path))

    return {} if result is None or options.netcdf is None else {options.netcdf: write}


IN_A_REPORT = ("interpolation", "traversal")  # which it draws where they are not there
ROWS_OF_A_REPORT = 100  # as `sample` counts them


def _report(
    opened: Run, stem: str, rows: Rows, options: Any
) -> tuple[list[Path], list[str]]:
    """Write the page of an evaluation, with pictures of sampling that it lacks: the files, or why there are none."""
    from pyro_vae.report import report

    folder = opened.folder
    drawn = [] if opened.several else _samples(opened, options)

    def write(path: Path) -> None:
        path.write_text(
            report(folder, evaluation=stem, data=fields_of(rows.x)[0]), encoding="utf-8"
        )

    page = folder / f"{stem.replace('evaluation', 'report', 1)}.html"
    written, failed = put_each({page: write})
    return [*drawn, *written], failed


def _samples(opened: Run, options: Any) -> list[Path]:
    """The pictures of sampling that a report shows and that the run does not have of these weights, drawn."""
    from pyro_vae._drawing import draw as draw_sample

    def make(kind: str) -> Any:
        pyro.set_rng_seed(options.seed)
        with torch.no_grad():
            return draw_sample(opened, kind, count=ROWS_OF_A_REPORT)[0]

    place = opened.folder / "samples"
    files = {place / f"{kind}.png": partial(make, kind) for kind in IN_A_REPORT}
    best = checkpoint_path(opened.folder)
    lacking = {path: each for path, each in files.items() if is_older(path, best)}
    try:
        subfolder(opened.folder, "samples")
    except (InputError, OSError):
        return []
    return draw(lacking)[0]


def _card(opened: Run) -> tuple[list[str], list[str]]:
    """Write the card of a run again: sentences about what stays in it, or why there is none."""
    from pyro_vae.report.card import write_card

    try:
        vae, _, header = load_weights(checkpoint_path(opened.folder))
        return write_card(opened.folder, vae, header["epoch"]), []
    except Exception as error:  # which costs no numbers
        return [], [f"{CARD} ({reason(error)})"]


def _next(opened: Run, rows: Rows, options: Any) -> str:
    """The command that draws from the run, with the options that say where the run and its data are."""
    moved = options.data if rows.split != NEW else None
    given = {"data": moved, "data-dir": options.data_dir}
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    words += ["--checkpoint=last"] if options.checkpoint == "last" else []
    return on_run("sample", opened.folder, *words)


def _write(
    folder: Path,
    stem: str,
    s: dict[str, Any],
    columns: dict[str, Any],
    table: "pandas.DataFrame | None",
) -> list[Path]:
    """Write the numbers of an evaluation, and of new data a table of them; all files together."""
    s |= {"figures": [], "arrays": digest(columns)}
    files: dict[Path, Write] = {
        folder / f"{stem}.json": partial(_save_json, s=s),
        folder / f"{stem}.npz": partial(_save_npz, columns=columns),
    }
    if table is not None:
        files[folder / f"{stem}.csv"] = as_csv(table)
    with together() as put:
        for path, write in files.items():
            put(path, write)
    return [*files]


def _draw(
    opened: Run,
    stem: str,
    s: dict[str, Any],
    figures: dict[str, Make],
    written_as: Sequence[str] | None,
) -> tuple[list[Path], list[str]]:
    """Draw the figures of an evaluation and name them in its file; which were drawn, and why others were not."""
    drawn: list[Path] = []
    folder = opened.folder
    written_as = written_as or formats(opened.config.get("figures", "png"))
    try:
        place = subfolder(subfolder(folder, "figures"), stem)
        drawn, failed = draw(
            {place / f"{name}.png": make for name, make in figures.items()}, written_as
        )
        shown = [path for path in drawn if path.suffix == ".png"]
        s["figures"] = [path.relative_to(folder).as_posix() for path in shown]
        write_atomically(folder / f"{stem}.json", partial(_save_json, s=s))
    except (InputError, OSError) as error:  # then its file names none of them
        return drawn, [f"figures ({reason(error)})"]
    return drawn, failed


def _beside(folder: Path, split: str) -> str:
    """What an evaluation that is not the headline leaves alone, for a person."""
    name = headline(split)
    if (folder / f"{name}.json").is_file():
        return f"kept: {folder / name}.json, the evaluation that report and comparison read"
    return f"the report and comparison read {name}.json, of all {split} data; there is none yet"


def _versions() -> dict[str, str]:
    return {
        "pyro_vae": __version__,
        "pyro": pyro.__version__,
        "torch": str(torch.__version__),
    }


def _save_json(path: Path, s: dict[str, Any]) -> None:
    path.write_text(
        json.dumps(_json(s), indent=2, default=str) + "\n", encoding="utf-8"
    )


def _save_npz(path: Path, columns: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **columns)


if __name__ == "__main__":
    run("pyro_vae.evaluate", main)
