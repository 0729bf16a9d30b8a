"""The options of the programs, and one-sentence errors; without torch, so that `--help` answers at once."""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.endings import (
    INTERRUPTED,
    READER_GONE,
    asking,
    interruptible,
    lasting_output,
    reader_gone,
)
from pyro_vae.foundation.errors import InputError, LostError, MarkedError
from pyro_vae.foundation.launch import end, launch
from pyro_vae.foundation.source import summaries
from pyro_vae.foundation.terminal import is_out_of_memory, printable, ready
from pyro_vae.runs import SPLITS

KINDS = (  # of pictures
    "prior",
    "reconstructions",
    "interpolation",
    "traversal",
    "manifold",
    "conditions",
    "transfer",
    "cross",
    "layers",
    "denoise",
    "attributes",
)
MEMBERS = "members"  # what --help lists of all axes
WIDTH = 79  # of the first paragraph of help
SHOW_AS = ("image", "series", "table")
FORMATS = ("png", "svg", "pdf")  # of figures; the first is always there
LONGEST = 600  # characters of a complaint
WORD = 250  # characters of a word in it, as long as the name of a file can be
MOST = 10**15  # of anything that an option counts
DRAWS = 200  # for each datum, where q(z|x) has no mean in closed form


class Version(argparse.Action):
    """`--version`: of this package, and of what its numbers come from; nothing is imported."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        from pyro_vae import __version__

        said = [f"pyro-vae {__version__}"]
        for name in ("torch", "pyro-ppl"):
            with suppress(PackageNotFoundError):
                said.append(f"{name} {version(name)}")
        print(", ".join(said))
        parser.exit()


class Help(argparse.Action):
    """`--help` shows the options, `--help members` what they can be, and `--help guide` what one of them can be."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        axes = parser.axes if values == MEMBERS else [values]
        if values and set(axes) <= set(parser.axes):
            print(members(*axes))
        else:
            parser.print_help()
        parser.exit()


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence, with the nearest option offered.

    Args:
        description: of the program.
        takes: its arguments that are no options, as its usage shows them.
        examples: the words of commands, which help shows first.
        axes: the options whose members help can list.
        **options: as in `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *,
        description: str = "",
        takes: str = "",
        examples: Sequence[str] = (),
        axes: Sequence[str] = (),
        add_help: bool = True,
        **options: Any,
    ) -> None:
        lines = [textwrap.fill(description, WIDTH)]
        if examples:
            lines += ["", "examples:", *(f"  %(prog)s {words}" for words in examples)]
        super().__init__(
            description="\n".join(lines),
            usage=f"%(prog)s {takes} [OPTION ...]".replace("  ", " "),
            epilog=_where_members_are(axes),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
            **options,
        )
        self.axes = axes
        if add_help:
            self.add_argument(
                *("-h", "--help"),
                action=Help,
                nargs="?" if axes else 0,
                metavar="OPTION" if axes else None,
                default=argparse.SUPPRESS,
                help="show this, or what an option can be, and exit"
                if axes
                else "show this and exit",
            )
        self.add_argument(
            "--version",
            action=Version,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show the versions of this package, torch and pyro-ppl, and exit",
        )

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (-\S+)", message):
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown[1].partition("=")[0], options, 1)
            message += (
                f"; did you mean {near[0]}?" if near else "; --help lists the options"
            )
        raise InputError(
            message
            if len(message) < LONGEST
            else f"{message[:300]} ... {message[-100:]}"
        )


def _where_members_are(axes: Sequence[str]) -> str | None:
    """The last words of help: how to see what the options can be that name a class."""
    if not axes:
        return None
    ways = ", ".join(f"--help {axis}" for axis in axes)
    return f"what an option can be that names a class, with its arguments: {ways}; of all: --help {MEMBERS}"


def run(
    name: str,
    main: Callable[[Sequence[str]], None],
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Run a program and exit: 0 when it did its work, 2 with one sentence for wrong input, 130 after Ctrl-C."""
    with _sentences(name):
        main(sys.argv[1:] if arguments is None else arguments)
    end(0)


TOGETHER = ("train", "evaluate")  # the programs that several processes can do


def answer(parser: Parser, arguments: Sequence[str] | None = None) -> None:
    """Exit where the command line asks for `--help` or cannot be read; before a program's imports, that is at once.

    So it is where torchrun started several processes of a program that is one.
    """
    name = parser.prog.removeprefix("python -m ")
    with _sentences(name):
        parser.parse_intermixed_args(arguments)
        program = name.replace(" ", ".").rpartition(".")[2]
        if launch().world > 1 and program not in TOGETHER:
            raise InputError(
                f"this program is one process, and {launch().world} were started: leave torchrun out; those that share "
                f"their work are {' and '.join(TOGETHER)}"
            )


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    ready()
    ended: SystemExit | None = None  # by --help
    with interruptible() as heard, lasting_output() as output:
        try:
            yield
        except SystemExit as exit_:
            if exit_.code:
                raise
            ended = exit_
        except BaseException as error:
            with (
                asking()
            ):  # a signal now does not come between a mistake and its sentence
                output.flush()
                code = _code(name, error, interrupted=bool(heard))
            end(code, last=not heard)
        output.flush()
        if reader_gone():
            sys.exit(READER_GONE)
        if output.error is not None:
            reason = getattr(output.error, "strerror", None) or output.error
            sys.exit(_say(name, f"standard output cannot be written to: {reason}"))
        if ended is not None:
            raise ended


def _code(name: str, error: BaseException, *, interrupted: bool) -> int:
    """The exit code for what ended a program, told in one sentence; what is a mistake of ours is raised again."""
    if reader_gone():
        return READER_GONE  # the reader of our output has gone; nothing is left to say
    if (lost := _lost(error)) is not None:
        return _say(name, str(lost))
    if interrupted or isinstance(error, KeyboardInterrupt):
        _say(name, "interrupted")
        return INTERRUPTED
    if isinstance(error, MarkedError):
        return _say(name, *error.lines)
    if isinstance(error, InputError):
        return _say(name, str(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _say(name, f"{where}{error.strerror or error}")
    if is_out_of_memory(error):
        return _say(
            name,
            "not enough memory; use a smaller --batch-size, --num-particles or network",
        )
    raise error


def _lost(error: BaseException) -> InputError | None:
    """What was said of another process that has ended: torchrun then kills this one, in the middle of saying it."""
    chain = [error]
    while (behind := chain[-1].__context__) is not None:
        chain.append(behind)
    if not any(isinstance(each, LostError) for each in chain):
        return None
    return next(each for each in chain if isinstance(each, InputError))


def _say(name: str, message: str, *below: str) -> int:
    """Print a sentence, and lines below it as they are."""
    short = re.sub(
        rf"\S{{{WORD},}}", lambda word: f"{word[0][:60]}...{word[0][-60:]}", message
    )
    lines = [f"{name}: {printable(short)}", *map(printable, below)]
    with suppress(OSError, ValueError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    return 2


def whole(text: str) -> int:
    """A whole number of at least 1, for an option."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not a whole number of at least 1"
        )
    if value > MOST:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is too large: {MOST:,} is the most"
        )
    return value


def count(text: str) -> int:
    """A whole number of at least 0, for an option."""
    return 0 if text.strip("0") == "" and text else whole(text)


def mebibytes(text: str) -> int:
    """An amount of memory in MiB, for an option."""
    value, most = whole(text), MOST // 2**20
    if value > most:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is too large: {most:,} is the most"
        )
    return value


def seed(text: str) -> int:
    """A seed, for an option."""
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 0 to 2^32 - 1"
        )
    return int(text)


def formats(text: str) -> tuple[str, ...]:
    """Formats of figures, as in `svg,pdf`; .png, which reports show, is always one of them.

    >>> formats("svg"), formats("png")
    (('png', 'svg'), ('png',))
    """
    asked = [part.strip().lower() for part in text.split(",")]
    for part in asked:
        if part not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"{shown(part)} is no format of figures; choose from {', '.join(FORMATS)}"
            )
    return tuple(name for name in FORMATS if name == FORMATS[0] or name in asked)


def add_formats(parser: Any) -> None:
    """The option of what figures are written as."""
    parser.add_argument(
        "--figures",
        type=formats,
        metavar="png,svg,pdf",
        help="formats of figures, separated by commas; .png is always one (default: as training was asked)",
    )


def add_trust(parser: Any) -> None:
    """The option that lets a file of options name code."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run code of other modules that the file names; without it they must be named in the call",
    )


def add_quiet(parser: Any) -> None:
    """The option that leaves out what is said on the way."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print nothing but warnings, the result and the files that were written",
    )


NEW = (
    "new data, all of whose rows are taken; or the data of the run, if they have moved"
)
MOVED = "where the data of the run lie now, if they have moved"


def members(*axes: str) -> str:
    """What `--help` says of the members of these axes."""
    lines = []
    for axis in axes:
        lines.append(
            f"members for --{axis.replace('_', '-')}, with their arguments and defaults:"
        )
        lines += [
            f"  {call}\n      {text.replace('`', '')}"
            for call, text in summaries(axis).items()
        ]
        lines.append("")
    return "\n".join(
        [*lines, "a class of your own: my_package.module:MyClass(argument=value)"]
    )


def run_parser(
    program: str, description: str, data: str = MOVED, **options: Any
) -> Parser:
    """The parser of a program that reads a trained run, with the options that all of them have."""
    parser = Parser(
        prog=f"python -m pyro_vae.{program}",
        description=description,
        takes="RUN",
        **options,
    )
    parser.add_argument("run", metavar="RUN", help="the run folder that training made")
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="which weights (default: best)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or mps (default: auto)"
    )
    parser.add_argument("--data", metavar="FILE", help=data)
    add_trust(parser)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the folder of the data files, if they have moved",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the random numbers (default: 0)"
    )
    return parser


def evaluate_parser() -> Parser:
    """The options of evaluation."""
    parser = run_parser(
        "evaluate",
        "Estimate log p(x) of each datum by importance weighting; say how far to trust it.",
        data=NEW,
        axes=("ask",),
        examples=(
            "runs/digits-bernoulli",
            "runs/digits-bernoulli --data new.csv --csv scores.csv",
        ),
    )
    add = parser.add_argument_group("data to evaluate").add_argument
    add("--labels", metavar="LABELS", help="labels of new data, as in training")
    add("--split", choices=SPLITS, help="which data of the run (default: test)")
    add(
        "--limit",
        type=whole,
        metavar="N",
        help="at most N data, spread evenly over the split",
    )
    add = parser.add_argument_group("log p(x)").add_argument
    add(
        "--num-particles",
        type=whole,
        default=5000,
        metavar="K",
        help="draws for each datum (default: 5000)",
    )
    add(
        "--memory",
        type=mebibytes,
        default=256,
        metavar="MiB",
        help="memory bound (default: 256)",
    )
    add = parser.add_argument_group("further questions").add_argument
    add(
        "--ask",
        action="append",
        default=[],
        metavar="QUESTION",
        help="ask a question, see --help ask; can be repeated. The next options are short for some of them",
    )
    add("--refine", type=whole, metavar="STEPS", help="refined(steps=STEPS)")
    add(
        "--adaptive",
        action="store_true",
        help="adaptive(), with the steps of --refine; what is done from 1,000 particles on",
    )
    add("--gaps", action="store_true", help="gaps()")
    add("--ais", action="store_true", help="ais()")
    add("--bdmc", type=whole, metavar="N", help="bdmc(n=N)")
    add(
        "--chains",
        type=whole,
        default=16,
        metavar="C",
        help="of --ais and --bdmc (default: 16)",
    )
    add(
        "--temperatures",
        type=whole,
        default=500,
        metavar="T",
        help="of both (default: 500)",
    )
    add(
        "--anneal-from",
        choices=("prior", "guide"),
        default="prior",
        help="start of both",
    )
    schedules = ("adaptive", "sigmoid", "linear")
    add("--schedule", choices=schedules, default="adaptive", help="of both")
    add(
        "--ood",
        action="append",
        default=[],
        metavar="DATASET",
        help="ood(); can be repeated",
    )
    add("--posterior", type=whole, metavar="N", help="posterior(n=N)")
    add(
        "--posterior-draws",
        type=whole,
        default=1000,
        metavar="D",
        help="its draws (default: 1000)",
    )
    add = parser.add_argument_group("files").add_argument
    add("--csv", metavar="FILE", help="also write a table with a line for each datum")
    add("--parquet", metavar="FILE", help="the same as a .parquet file")
    add("--netcdf", metavar="FILE", help="also write an ArviZ InferenceData")
    add_formats(parser)
    add(
        "--report",
        action="store_true",
        help="also write RUN/report.html, a page for a reader",
    )
    add_quiet(parser)
    return parser


def sample_parser() -> Parser:
    """The options of sampling."""
    parser = run_parser(
        "sample",
        "Draw prior samples, reconstructions, interpolations, traversals, attributes, the 2-d manifold; under "
        "conditions too.",
        examples=(
            "runs/digits-bernoulli",
            "runs/digits-bernoulli --kind prior --count 1000",
        ),
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        action="append",
        help="what to draw, again for more (default: all there is)",
    )
    parser.add_argument(
        "--count",
        type=whole,
        default=100,
        metavar="N",
        help="draws from the prior (default: 100)",
    )
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a condition to draw or decode under (by default those of the data), or a column of the run's table, "
        "or of a field that is one, that data are drawn given; again for more",
    )
    parser.add_argument(
        "--corrupt",
        metavar="NAME",
        help="of the kind denoise what data are corrupted by, as in noise(0.3) (default: that of the training)",
    )
    parser.add_argument(
        "--way",
        choices=("line", "dense"),
        default="line",
        help="of interpolations: a straight line in z, or by way of where the codes of data are dense (default: line)",
    )
    parser.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME",
        help="of the kind attributes which label, condition or column of a table gives directions in z; again for more "
        "(default: all that have 2 to 40 categories)",
    )
    parser.add_argument(
        "--attributes",
        metavar="FILE",
        help="of the kind attributes a text table with names in the first line and a row for each datum, in the order "
        "of the data or behind their names: its columns give the directions",
    )
    parser.add_argument(
        "--controlled",
        action="store_true",
        help="of the kind attributes: leave to the other attributes what goes along with them, by a linear model",
    )
    parser.add_argument(
        "--show-as",
        choices=SHOW_AS,
        help="what pictures take the data for (default: what the training was asked for, else by their shape)",
    )
    add_formats(parser)
    parser.add_argument(
        "--draws",
        action="store_true",
        help="show draws from p(x) in place of means of p(x | z)",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="where data come from (default: test)",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="where to write (default: RUN/samples)"
    )
    return parser


def impute_parser() -> Parser:
    """The options of imputation."""
    parser = run_parser(
        "impute",
        "Fill in what is missing in data, given what was seen.",
        data=NEW,
        examples=(
            "runs/people-columns",
            "runs/people-columns --draws 20 --output filled.npz",
        ),
    )
    add = parser.add_argument
    add("--split", choices=SPLITS, help="which data of the run (default: all)")
    add(
        "--output",
        metavar="FILE",
        help="a .csv, .parquet or .npz file (default: RUN/imputed.csv)",
    )
    add(
        "--draws",
        type=count,
        default=0,
        metavar="N",
        help="completed copies for the .npz beside",
    )
    add(
        "--num-particles",
        type=whole,
        default=1000,
        metavar="K",
        help="weighted draws of z for each datum (default: 1000)",
    )
    add(
        "--memory",
        type=mebibytes,
        default=256,
        metavar="MiB",
        help="memory bound (default: 256)",
    )
    add_quiet(parser)
    return parser


def compare_parser() -> Parser:
    """The options of comparison."""
    parser = Parser(
        prog="python -m pyro_vae.compare",
        description="Compare the log-likelihoods that evaluation left in run folders, datum by datum. Runs that differ "
        "in --seed alone are one method.",
        takes="RUN RUN ...",
        examples=(
            "runs/digits-bernoulli runs/digits-bernoulli-2",
            "Gaussian=a0,a1,a2 flow=b0,b1,b2 --table methods.tex",
        ),
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="the run folders, two or more, each of them evaluated, or folders of --seeds, for all runs in them; "
        "NAME=RUN,RUN names a method and its seeds",
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="which data (default: test)"
    )
    parser.add_argument(
        "--apart",
        action="store_true",
        help="compare trained models, each run by itself",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        action="append",
        default=[],
        help="also write the table, as Markdown, LaTeX or CSV by its ending: .md, .tex, .csv; may be repeated",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    return parser


def encode_parser() -> Parser:
    """The options of encoding."""
    parser = run_parser(
        "encode",
        "Write the posterior means of all data, read their labels from them, draw them.",
        data=NEW,
        examples=(
            "runs/digits-bernoulli",
            "runs/digits-bernoulli --data new.npy --csv codes.csv",
        ),
    )
    parser.add_argument(
        "--labels", metavar="LABELS", help="labels of new data, as in training"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="a .npz or .parquet file (default: RUN/latents.npz)",
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="also write a table with a line for each datum"
    )
    parser.add_argument("--parquet", metavar="FILE", help="the same as a .parquet file")
    parser.add_argument(
        "--num-draws",
        type=whole,
        default=DRAWS,
        metavar="K",
        help="for q(z|x) without a closed form (default: 200)",
    )
    add_formats(parser)
    add_quiet(parser)
    return parser


EXPORTED = ("pt2", "onnx")
PARTS = ("encoder", "decoder")


def export_parser() -> Parser:
    """The options of export."""
    parser = Parser(
        prog="python -m pyro_vae.export",
        description="Write encoder and decoder as files that work without this package, and compare them with the run.",
        takes="RUN",
        examples=("runs/digits-bernoulli", "runs/digits-bernoulli --format onnx"),
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="the run folder that training made")
    add("--part", choices=PARTS, help="which of them (default: both)")
    add(
        "--format",
        metavar="FORMAT",
        help="pt2, of torch.export, or onnx, or pt2,onnx (default: both, without the packages for onnx pt2)",
    )
    add("--output", metavar="DIR", help="where to write (default: RUN/export)")
    add(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="which weights (default: best)",
    )
    add(
        "--seed",
        type=seed,
        default=0,
        help="seed of the inputs by which files are compared with the run (default: 0)",
    )
    add_trust(parser)
    add_quiet(parser)
    return parser


def explore_parser() -> Parser:
    """The options of the page that explores latents."""
    parser = run_parser(
        "explore",
        "Write a page that runs the decoder: a reader moves through the latents and sees what p(x|z) makes of them.",
        data=NEW,
        examples=("runs/digits-bernoulli", "runs/digits-bernoulli --output page.html"),
    )
    add = parser.add_argument
    add("--labels", metavar="LABELS", help="labels of new data, as in training")
    add(
        "--split",
        choices=SPLITS,
        default="test",
        help="which data of the run (default: test)",
    )
    add(
        "--limit",
        type=whole,
        metavar="N",
        help="at most N data in the page, spread evenly (default: 1000, fewer of large data)",
    )
    add(
        "--output",
        metavar="FILE",
        help="a .html file (default: RUN/explorer.html)",
    )
    add_quiet(parser)
    return parser


def push_parser() -> Parser:
    """The options of push."""
    parser = Parser(
        prog="python -m pyro_vae.push",
        description="Send a run to the Hugging Face Hub: weights, options, card, metrics, evaluations and figures.",
        takes="RUN REPO",
        examples=("runs/digits-bernoulli someone/digits-vae --private",),
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="the run folder that training made")
    add("repo", metavar="REPO", help="the repository on the Hub, as in USER/NAME")
    add("--private", action="store_true", help="make a new repository private")
    add(
        "--revision",
        metavar="BRANCH",
        help="the branch, made if need be (default: main)",
    )
    return parser


def pull_parser() -> Parser:
    """The options of pull."""
    parser = Parser(
        prog="python -m pyro_vae.pull",
        description="Fetch a run from the Hugging Face Hub.",
        takes="REPO [FOLDER]",
        examples=("someone/digits-vae",),
    )
    add = parser.add_argument
    add("repo", metavar="REPO", help="the repository on the Hub, as in USER/NAME")
    add(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="where it goes, a new or empty folder (default: runs/NAME)",
    )
    add(
        "--revision", metavar="REVISION", help="a branch, tag or commit (default: main)"
    )
    return parser


# What a list of runs is sorted by.
SORTED_BY = ("log_p", "elbo", "date", "name", "data", "state", "epochs")


def runs_parser() -> Parser:
    """The options of the list of runs."""
    parser = Parser(
        prog="python -m pyro_vae runs",
        description="List the runs below a folder: what they are of, in what they differ, and what came out.",
        takes="[FOLDER ...]",
        examples=("runs", "--where guide=fullrank --sort elbo"),
    )
    add = parser.add_argument
    add(
        "folders",
        metavar="FOLDER",
        nargs="*",
        help="where to look, in the folders inside it too (default: the current folder)",
    )
    add(
        "--sort",
        choices=SORTED_BY,
        help="by what (default: data by data, the highest log p(x) first, or ELBO where there is none)",
    )
    add(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only runs with this option, data, state or name, as in guide=fullrank; again for more",
    )
    add(
        "--split",
        choices=SPLITS,
        default="test",
        help="of which data log p(x) is (default: test)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print all there is as JSON")
    form.add_argument("--csv", action="store_true", help="print the table as CSV")
    return parser


SHELLS = ("bash", "zsh", "tcsh")


def completion_parser() -> Parser:
    """The options of completion."""
    parser = Parser(
        prog="python -m pyro_vae completion",
        description="Print what lets a shell complete commands, options, members and folders after pyro-vae.",
        takes="SHELL",
        examples=(
            "bash > ~/.local/share/bash-completion/completions/pyro-vae",
            "zsh > ~/.zfunc/_pyro-vae",
        ),
    )
    parser.add_argument(
        "shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS)
    )
    return parser
