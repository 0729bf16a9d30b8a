"""The training loop: epochs over data, rates that change, and what is reported."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyro.infer
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.data.fields import cut, parts_of
from pyro_vae.data.inputs import as_data, beside_condition, first_rows, labels_of
from pyro_vae.data.streams import batches
from pyro_vae.engine.compiled import restored
from pyro_vae.engine.graphs import choice
from pyro_vae.engine.memory import bytes_of
from pyro_vae.engine.processes import here
from pyro_vae.foundation.abstract import forked_random, is_own
from pyro_vae.foundation.checks import (
    MOST,
    Number,
    at_least,
    at_most,
    checked,
)
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.memory import require
from pyro_vae.inference.averaging import Memory
from pyro_vae.inference.bars import Unseen, bar_of
from pyro_vae.inference.bounds import mean_bound
from pyro_vae.inference.coding import fit_codes
from pyro_vae.inference.corrupting import corrupted
from pyro_vae.inference.epochs import Epoch, History, Progress
from pyro_vae.inference.held import ELBO as BOUND
from pyro_vae.inference.held import KL, RECONSTRUCTION, SCORE, chance, judge
from pyro_vae.inference.joint import compare, equalise, join
from pyro_vae.inference.objectives import ELBO, Objective
from pyro_vae.inference.objectives.annealed import usual_objective
from pyro_vae.inference.schedules import Schedule, constant, try_out, unchecked
from pyro_vae.inference.seeking import (
    all_labelled,
    begin,
    begin_prior,
    check_learned,
    epochs_before,
    has_labels,
    seek,
)
from pyro_vae.inference.spreading import spread_labels
from pyro_vae.inference.stacking import check_stack, stack
from pyro_vae.inference.svi import SVI, Record
from pyro_vae.inference.watch import Remark, TrainingWarning, remarks, wild
from pyro_vae.inference.worth import LARGEST, worth
from pyro_vae.models.conditionals import Codebook, Moved
from pyro_vae.models.priors import Codes
from pyro_vae.models.vae import VAE
from pyro_vae.networks import Corruption


class Turn(NamedTuple):
    """Something that is done once between two epochs, and before the first; no epoch before it can be the best.

    Attributes:
        after: how many epochs are done then; 0 for never.
        take: what is done.
        first: what is done before the first epoch.
    """

    after: int = 0
    take: Callable[[], None] = lambda: None
    first: Callable[[], object] = lambda: None

    def with_layers(self, layers: Callable[[], None]) -> "Turn":
        """The same, with the layers trained one by one before whatever else is done first."""

        def first() -> None:
            layers()
            self.first()

        return self._replace(first=first)

    def before(self, done: int) -> bool:
        """Do what is due before an epoch, once so many are done; whether weights were set outright."""
        if done == 0:
            self.first()
        due = done == self.after > 0
        if due:
            self.take()
        return due


ADAM = partial(torch.optim.Adam, fused=True)
LARGE = 1000  # data in a step from which it is worth measuring what it takes
ADVICE = "lower the learning rate or check the scale of the data"


class NonFiniteLossError(InputError):
    """The loss became infinite or not a number; the message names the step and the site."""


class Records:
    """The records of steps, left on the device until somebody reads them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.sizes: list[int] = []

    def add(self, record: Record, size: int) -> None:
        """Keep the record of a step over `size` data, its loss a mean over them."""
        self.records.append(record)
        self.sizes.append(size)

    def drain(
        self, first_step: int, totals: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        """Read the records kept since the last call and add their loss, reconstruction and KL to `totals`.

        Raises `NonFiniteLossError` for the first record whose loss is not finite; `first_step` is the number of the
        first.
        """
        if not self.records:
            return totals
        table = torch.stack([record.values for record in self.records]).cpu().double()
        bad = (~table[:, 0].isfinite()).nonzero()
        if len(bad):
            row, step = table[bad[0, 0]], first_step + int(bad[0, 0])
            sites = zip(self.records[0].sites, row[3:].tolist(), strict=True)
            found = [
                (f"log-probability of site {name}", value)
                for name, value in sites
                if not math.isfinite(value)
            ]
            name, value = [*found, ("loss", row[0].item())][0]
            raise NonFiniteLossError(
                f"the loss stopped being finite at step {step}: the {name} is {value}; {ADVICE}"
            )
        # Added one by one, so that the sum does not depend on when somebody reads.
        table[:, 0] *= torch.tensor(self.sizes)
        self.records, self.sizes = [], []
        columns = zip(table[:, :3].T.tolist(), totals, strict=True)
        loss, reconstruction, kl = (sum(column, start) for column, start in columns)
        return loss, reconstruction, kl


def run_epochs(
    svi: SVI,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: Schedule = constant,
    validation: Any = None,
    patience: int | None = None,
    compile: bool | str = "auto",
    progress: Progress | None = None,
    turn: Turn = Turn(),  # noqa: B008  # it cannot be changed
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int, float], None] = lambda done, size, elbo: None,
    say: Callable[[str], None] | None = None,
    remark: Callable[[Remark], None] | None = None,
    called: Callable[
        [int], str
    ] = "datum {} (counted from 0) of the validation data".format,
) -> Generator[Epoch, None, None]:
    """The training loop, one `Epoch` at a time; `fit` for those who do not need what lies between the epochs.

    Args:
        svi: the step, with `reduction='mean'`.
        data: training data: anything with a length that an index tensor takes batches from, such as a tensor; data that
            can read ahead have a method `batches(order, batch_size)`.
        epochs: where to stop, counted from the beginning of the run.
        batch_size: data in a step; the last batch of an epoch holds what remains.
        learning_rate: multiplied by `schedule(t)`, `t` the fraction of the run that is done.
        schedule: a function of `t`, as in `fit`.
        validation: data for the validation ELBO, taken after each epoch with the same random numbers every time.
        patience: as in `fit`.
        compile: as in `fit`; what `'auto'` decided in `progress` stays decided.
        progress: where to go on; it is updated in place, so that it can be saved at any time between two steps.
        turn: what is done between two epochs, such as `seek`.
        stop: asked after each step whether to break off; `progress` then holds the unfinished epoch.
        report: called from time to time with the number of data done, the size of the epoch, and its ELBO so far.
        say: called with a sentence when steps are compiled unasked, or cannot be compiled; by default the first is
            logged, the second a `CompileWarning`.
        remark: called with what training notices about itself, each kind once in a run; by default a
            `TrainingWarning`.
        called: what a validation datum is called, by its number.

    Raises:
        InputError: when the objective does not fit the pair or the length of the run, when the schedule fails in it, or
            for a patience below 1.
        NonFiniteLossError: naming the step and the site.
    """
    schedule = _tried(schedule, patience)
    progress = Progress() if progress is None else progress
    processes, size = here(), len(data)
    steps = -(-size // batch_size)
    exchange = join(svi, data, min(batch_size, size))
    objective = _prepared(svi, size, epochs)
    chains, whole = _chains(svi, size, progress), exchange.whole
    look = partial(worth, svi, data, steps=epochs * steps, batch_size=whole)
    labels = _labels(svi, data)
    with chains(torch.arange(whole), changed=False), labels():
        _compile(svi, compile, progress, look, say, batch_size=whole)
    while not progress.finished(epochs, patience):
        order = _order(svi, size, progress, turn)
        _mode(svi, train=True)
        mine = processes.mine(order[progress.position :], batch_size)
        ahead = batches(data, *mine, later=True)
        rows, started, read = Records(), time.perf_counter(), time.perf_counter()
        before, rate = progress.seconds, learning_rate
        first = progress.epoch * steps + progress.position // batch_size + 1
        while progress.position < size:
            done = progress.epoch * steps + progress.position // batch_size
            rate = learning_rate * schedule(done / (epochs * steps))
            for group in svi.optimizer.param_groups if svi.has_optimizer else ():
                group["lr"] = rate
            if objective is not None:
                objective.advance(done / steps)
            count = exchange.meet(min(batch_size, size - progress.position))
            x = next(ahead)
            with chains(order[progress.position :][:count]), labels():
                rows.add(svi.step_and_record(x), count)
            progress.position += count
            now = time.perf_counter()
            halt, due = exchange.signs(stop(), now - read > 0.5)
            if halt or due or progress.position == size:
                read, kept = now, len(rows.records)
                progress.totals = rows.drain(first, progress.totals)
                first += kept
                progress.seconds = before + now - started
                report(
                    progress.position,
                    size,
                    (progress.totals[1] - progress.totals[2]) / progress.position,
                )
            if halt and progress.position < size:
                return
        _check_parameters(svi, (progress.epoch + 1) * steps)
        found, bound, told = _looked(svi, data, validation, progress, called)
        epoch = _close(svi, data, found, bound, progress=progress, rate=rate)
        if progress.epoch < turn.after:
            epoch = epoch._replace(score=math.nan)
        progress.close(epoch, None if found is None else found[[BOUND, SCORE]])
        over = progress.finished(epochs, patience)
        for noticed in (
            *told,
            *remarks(epoch, progress, steps=epoch.epoch * steps, over=over),
        ):
            (remark or _warn)(noticed)
        yield epoch
        if processes.any(stop()):
            return


def _tried(schedule: Schedule, patience: int | None) -> Schedule:
    """The schedule; `InputError` where it fails, or for a patience below 1."""
    try_out(schedule)
    if patience is not None and (type(patience) is not int or patience < 1):
        raise InputError(
            f"patience={patience!r} must be a whole number of epochs, at least 1"
        )
    return unchecked(schedule)


def _order(svi: SVI, size: int, progress: Progress, turn: Turn) -> Tensor:
    """The data order of the epoch under way, or of a new one, once what is due before it is done."""
    if progress.order is None:
        with here().alike():
            set_outright = turn.before(progress.epoch)
            if set_outright and svi.average is not None:
                svi.average.restart()
            progress.order = torch.randperm(size)
        if set_outright or progress.epoch == 0:
            equalise(svi)
    return progress.order


def _labels(svi: SVI, data: Any) -> Callable[[], AbstractContextManager[None]]:
    """Says of steps whether all data have a label; an objective that refuses classes refuses them then too."""
    known = all_labelled(svi, data)
    if known:
        with forked_random():  # data may be drawn anew at each visit
            svi.check(data[torch.arange(min(2, len(data)))])
    return partial(svi.labelled, known)


def _chains(
    svi: SVI, size: int, progress: Progress
) -> Callable[..., AbstractContextManager[None]]:
    """Lays out the chains of some rows of the training data, where the guide keeps chains of them.

    Raises:
        InputError: where a run goes on with chains of other data, or without those that it had.
    """
    guide = svi.guide
    if not isinstance(guide, Moved) or not guide.persistent:
        return lambda *_, **__: nullcontext()
    if progress.epoch == 0 and progress.position == 0:
        guide.keep(size)
    held = 0 if guide.kept is None else len(guide.kept)
    if guide.kept is None or held != size:
        raise InputError(
            f"the guide Moved keeps chains of {held} training data, and the run goes on with {size}: resume it with "
            "the data and the checkpoint that it had"
        )
    return guide.kept.visited


def _prepared(svi: SVI, size: int, epochs: int) -> Objective | None:
    """The objective, where it is one of this package, once it and the optimizer know of the run."""
    svi.meet(size)
    if not isinstance(svi.objective, Objective):
        return None
    svi.objective.prepare(size, epochs)
    return svi.objective


def _warn_unless_overfit(noticed: Remark) -> None:
    """As `_warn`, where weights that overfit are not kept."""
    if noticed.kind != "overfits":
        _warn(noticed)


def _warn(noticed: Remark) -> None:
    warnings.warn(str(noticed), TrainingWarning, stacklevel=4)


def _compile(
    svi: SVI,
    wanted: bool | str,
    progress: Progress,
    look: Callable[[], str | None],
    say: Callable[[str], None] | None,
    *,
    batch_size: int,
) -> None:
    """Compile the steps of a run if that is `wanted`, or `'auto'` and they save more time than it takes.

    `look` tells why they do, or gives `None`; it is asked once in a run.
    """
    if svi.em is not None and wanted == "auto":
        return
    asked, reason = choice(wanted, repaid=False), None
    if wanted == "auto" and progress.compiled is None:
        reason = here().every(look())[0]
        progress.compiled = reason is not None
    if not asked and not (wanted == "auto" and progress.compiled):
        return
    svi.compile(batch_size=batch_size, limit=None if asked else LARGEST, warn=say)
    if svi.compiled and reason is not None:
        (say or logging.getLogger(__name__).info)(reason)


def _mode(svi: SVI, *, train: bool) -> None:
    """Tell the modules whether they are trained; where only a part is, the others stay as in evaluation."""
    for program in (svi.model, svi.guide):
        if isinstance(program, nn.Module):
            program.train(train and svi.only is None)
    if svi.only is not None:
        svi.only.train(train)


def _check_parameters(svi: SVI, last: int) -> None:
    """Raise `NonFiniteLossError` where a parameter is not finite after step `last`, or not that of all processes."""
    if not all(
        bool(p.isfinite().all())
        for group in svi.optimizer.param_groups
        for p in group["params"]
    ):
        raise NonFiniteLossError(
            f"a parameter stopped being finite at step {last}, the last of its epoch; {ADVICE}"
        )
    compare(svi)


def _judge(svi: SVI, validation: Any, progress: Progress) -> Tensor:
    """The validation data after the epoch that is about to be closed, by `judge`; what is not finite is left out.

    Raises:
        NonFiniteLossError: where most of them have no finite bound.
    """
    own = (
        svi.objective.plain
        if isinstance(svi.objective, Objective) and svi.objective.tightens
        else None
    )
    # What programs of others change when they are called is not known.
    alike = svi.alike if is_own(svi.model, svi.guide) else None
    _mode(svi, train=False)
    with forked_random():
        torch.manual_seed(0)  # the same latents and bits after every epoch
        found = judge(svi.model, svi.guide, validation, own, alike)
    lost = (~found.isfinite().all(0)).nonzero().flatten().tolist()
    if 2 * len({*lost, *progress.left_out}) > found.shape[1]:
        value = found[BOUND, lost[0]].item() if lost else math.nan
        raise NonFiniteLossError(
            f"the validation ELBO after epoch {progress.epoch + 1} is {value} for {len(lost)} of "
            f"{found.shape[1]} data; {ADVICE}"
        )
    return found


def _looked(
    svi: SVI,
    data: Any,
    validation: Any,
    progress: Progress,
    called: Callable[[int], str],
) -> tuple[Tensor | None, tuple[float, float], tuple[Remark, ...]]:
    """The validation data by `judge`, reconstruction and KL of the epoch, and what is to be said of these.

    The weights are their average, where one follows them. A pair that is not of this package may be trained by an ELBO
    of Pyro's and have none for each datum.
    """
    try:
        with svi.averaged():
            found = None if validation is None else _judge(svi, validation, progress)
            told = () if found is None else tuple(wild(found, progress, called))
            return found, _bound(svi, data, progress), told
    except NonFiniteLossError:
        raise
    except Exception as error:
        if is_own(svi.model, svi.guide) or isinstance(svi.objective, Objective):
            raise
        return None, (math.nan, math.nan), _unknown(error, progress)


def _unknown(error: Exception, progress: Progress) -> tuple[Remark, ...]:
    """Say once why the records of a run hold no ELBO."""
    if "unknown" in progress.said:
        return ()
    progress.said.append("unknown")
    text = f"the ELBO of the epochs is not known, since {one_line(error)}"
    return (
        Remark(
            "unknown",
            text,
            "the record is the loss alone, and the best epoch is chosen by it",
        ),
    )


def _bound(svi: SVI, data: Any, progress: Progress) -> tuple[float, float]:
    """Reconstruction and KL of the epoch whose steps are done."""
    size = len(data)
    _, reconstruction, kl = (total / size for total in progress.totals)
    _mode(svi, train=False)
    # An ELBO of Pyro's keeps its terms to itself, and chains without a guide have none.
    if math.isnan(reconstruction):
        rows = 100 if isinstance(svi.guide, Moved) else 1000
        with forked_random():
            torch.manual_seed(0)
            _, reconstruction, kl = mean_bound(
                svi.model, svi.guide, first_rows(data, rows)
            )
    return reconstruction, kl


def _close(
    svi: SVI,
    data: Any,
    found: Tensor | None,
    bound: tuple[float, float],
    *,
    progress: Progress,
    rate: float,
) -> Epoch:
    """The record of an epoch whose steps are done; `found` is of the validation data, by `judge`."""
    size = len(data)
    loss, (reconstruction, kl) = progress.totals[0] / size, bound
    valid, noise = [math.nan] * 3, math.nan
    loss_alone = _optimises_its_own(svi) or math.isnan(reconstruction - kl)
    score = -loss if loss_alone else reconstruction - kl
    if found is not None:
        kept = progress.kept(found)
        *valid, score = kept.mean(1).tolist()
        # To the last digit the ELBO is the difference of its parts, and the score where that is what it goes by.
        valid[BOUND] = valid[RECONSTRUCTION] - valid[KL]
        score = score if _optimises_its_own(svi) else valid[BOUND]
        best = (
            None if progress.best_each is None else progress.kept(progress.best_each[0])
        )
        noise = chance(best, kept[BOUND])
    perplexity, unused = math.nan, math.nan
    if isinstance(svi.guide, Codebook):
        perplexity, unused = svi.guide.counted()
    acceptance = svi.guide.counted() if isinstance(svi.guide, Moved) else math.nan
    return Epoch(
        epoch=progress.epoch + 1,
        elbo=reconstruction - kl,
        reconstruction=reconstruction,
        kl=kl,
        loss=loss,
        validation_elbo=valid[BOUND],
        validation_reconstruction=valid[RECONSTRUCTION],
        validation_kl=valid[KL],
        score=score if _settled(svi, progress.epoch + 1) else math.nan,
        learning_rate=rate,
        seconds=progress.seconds,
        images_per_second=size / progress.seconds,
        validation_noise=noise,
        perplexity=perplexity,
        unused=unused,
        acceptance=acceptance,
    )


def _settled(svi: SVI, epochs: int) -> bool:
    """Whether no warm-up goes on when so many epochs are done."""
    return not isinstance(svi.objective, Objective) or svi.objective.settled(epochs)


def _optimises_its_own(svi: SVI) -> bool:
    """Whether the best epoch is chosen by the objective's own bound and not by the ELBO."""
    return isinstance(svi.objective, Objective) and svi.objective.tightens


def step_bytes(svi: SVI, few: Any, size: int) -> float:
    """What a step of `size` data takes of memory beside the weights, by what two and four data need, `few`."""
    programs = [p for p in (svi.model, svi.guide) if isinstance(p, nn.Module)]
    with forked_random(), restored([b for p in programs for b in p.buffers()]):
        two, four = (
            bytes_of(partial(svi.evaluate_loss, cut(few, slice(n), 4))) for n in (2, 4)
        )
    # Gradients need about half of all that is computed until the step is over.
    needed = (four - two) / 2 * size / 2
    # The weights are there already; their gradients and the averages of Adam and of the weights are not.
    copies = 3 if svi.average is None else 4
    return needed + copies * sum(
        p.nbytes for program in programs for p in program.parameters()
    )


def _check_step(svi: SVI, data: Any, size: int) -> None:
    """Raise `InputError` where a step of many data needs more memory than there is."""
    if size < LARGE or not is_own(svi.model, svi.guide):
        return
    few = data[torch.arange(4)]
    if parts_of(few)[0].device.type == "cpu":
        require(
            step_bytes(svi, few, size),
            f"a step of {size} data",
            "batch_size or network",
        )


@checked
def fit(
    vae: Any,
    data: Any,
    objective: pyro.infer.ELBO | None = None,
    *,
    c: Any = None,
    epochs: Annotated[int, at_least(0), at_most(MOST)],
    batch_size: Number = 100,
    learning_rate: float = 1e-3,
    schedule: Schedule = constant,
    optimizer: Callable[..., Optimizer] = ADAM,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    average: Memory | None = None,
    validation: Any = None,
    patience: int | None = None,
    compile: bool | str = "auto",
    start: bool = True,
    only: Literal["prior"] | None = None,
    corrupt: Corruption | None = None,
    stacked: Annotated[int, at_least(0), at_most(MOST)] = 0,
    keep: Literal["last", "best"] = "last",
    report: Callable[[Epoch], object] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a pair by stochastic gradient ascent on an objective.

    Of a pair with a codebook the prior over its codes is fitted in the end, by `fit_codes`; where training does not
    come to its end they are equally likely.

    Args:
        vae: anything with a `.model` and a `.guide`, such as a `VAE`.
        data: training data, `(N, *shape)`: a tensor, an array, a table, a map-style data set, or anything with a length
            that an index tensor takes batches from.
        c: of a conditional `VAE` the condition of each datum, `(N, context)`, or for classes whole numbers `(N,)`.
        objective: an `Objective` or a `pyro.infer.ELBO`; by default `ELBO()`, of several layers `Annealed` over the
            first quarter of the epochs.
        epochs: passes over the data.
        batch_size: data in a step.
        learning_rate: times `schedule(t)`, `t` from 0 to 1 over the run; the loss is in nats per datum.
        schedule: of `pyro_vae.inference.schedules` `constant`, `cosine`, `step` or `burda`, or any function of `t`.
        optimizer: a class or function called with parameters and `lr`; fused Adam by default. `EM` fits a pair with the
            guide `Exact` without gradients.
        weight_decay: before each step the weights of encoder, guide and decoder shrink by `rate * weight_decay` of
            themselves, whatever the optimizer; see `SVI`.
        clip_norm: the longest gradient, all parameters together; longer ones are shortened to it.
        average: the decay of an exponential moving average of the weights, such as 0.999, see `Average`. Validation is
            of the average, and with it `patience` and `history.best`; in the end the parameters are the average. Where
            parts of p(z) are sought among the codes, it begins anew.
        validation: data for the validation ELBO after each epoch; of a conditional `VAE` `{"x": ..., "c": ...}`.
        patience: stop after so many epochs without a better one, counted after the warm-up; `history.best` is then
            that many epochs back.
        compile: run the steps as compiled graphs (see `SVI`), or with `'auto'` where the operations of a step and the
            number of steps promise to save more time than compiling takes.
        start: set weights of a `VAE` that are still as they were made from the data first, by `VAE.start`.
        only: `'prior'` trains the prior p(z) of a `VAE` and nothing else, such as a second one of `VAE.with_prior`: it
            climbs `E_q(z|x) log p(z)`, the rest of the ELBO being constant, or another objective. The other parts stay
            as in evaluation, to the bit. A prior that is as it was made begins at the codes of the data.
        corrupt: what encoders see in training in place of x, such as `Noise(scale=0.3)`; densities and validation are
            of x as it is.
        stacked: epochs in which each hidden layer is trained by itself before all are trained together, see `stack`.
        keep: whose weights stay in the end: those of the `'last'` epoch, or of the `'best'`, `history.best`. With an
            `average` they are the average after that epoch.
        report: called with each `Epoch`. Where it returns `True` training ends with that epoch, as it does by
            `patience`. What it raises ends training too, and is raised.
        progress: show a bar with the epoch, the ELBO and the data done in a second. By default in a notebook and on a
            terminal, but not of a `fit` inside another.

    Returns:
        The `History`: one `Epoch` for each pass. Where training ends by an interrupt (Ctrl-C) or an error, which are
        raised, the pair has the weights that it would have kept by then, and can be used and trained on. The interrupt
        says how far training came.

    Raises:
        InputError: for empty data, values that the model's likelihood does not accept, an objective that does not fit
            the pair or the length of the run, or a prior in which `only='prior'` finds nothing to train; for corruption
            or layers that the pair has no place for.
        NonFiniteLossError: when the loss stops being finite, naming the step and the site.

    Warns:
        TrainingWarning: for latents that collapse, for training and validation data that drift apart (unless
            `keep='best'`), for a best epoch inside a warm-up, for a validation datum without a finite ELBO, which is
            left out of the choice of the best epoch; once each.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> history = fit(vae, torch.ones(80, 4), epochs=20, learning_rate=0.01)
    >>> history[-1].elbo > history[0].elbo
    True
    """
    data = beside_condition(vae.model, data, c)
    if only is not None and (stacked or corrupt is not None):
        raise InputError(
            "stacked and corrupt are of the training of encoders, and with only='prior' these stay as they are: leave "
            "them out"
        )
    part = None if only is None else _second_prior(vae, weight_decay)
    start_all = start and only is None
    if start_all and hasattr(vae, "meet_labels"):
        labels = labels_of(vae.model, data)
        if labels is not None:
            vae.meet_labels(labels)
    data = as_data(vae.model, data, name="data")
    if validation is not None:
        validation = as_data(vae.model, validation, name="validation")
    try_out(schedule)
    fresh = start_all and hasattr(vae, "start") and vae.fresh("guide")
    if start_all and hasattr(vae, "start"):
        vae.start(data)
    if only is None and (spread := spread_labels(vae, data)) is not None:
        data = spread.data
    if start and only is not None and vae.fresh("prior"):
        begin_prior(vae, data)
    usual = usual_objective(vae.model, vae.guide, epochs) if only is None else ELBO()
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: optimizer(p, lr=learning_rate),
        objective or usual,
        reduction="mean",
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        average=average,
        only=part,
    )
    turn = Turn()
    if only is None:
        turn = turn_of(vae, data, epochs, batch_size, fresh=fresh)
    _check_step(svi, data, min(batch_size, len(data)))
    if stacked:
        check_stack(vae)
        layers = partial(
            stack, vae, data, stacked, batch_size=batch_size, corrupt=corrupt
        )
        turn = turn.with_layers(layers)

    has_codes = isinstance(getattr(vae.model, "prior", None), Codes)
    run = _Run(svi, epochs, len(data), keep=keep, report=report)
    try:
        with (
            bar_of(epochs, len(data), asked=progress) as bar,
            corrupted(vae.guide, corrupt),
        ):
            each = run_epochs(
                svi,
                data,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                schedule=schedule,
                validation=validation,
                patience=patience,
                compile=compile,
                progress=run.progress,
                turn=turn,
                stop=lambda: run.stopped,
                report=bar.within,
                remark=None if keep == "last" else _warn_unless_overfit,
            )
            run.follow(each, bar)
    except KeyboardInterrupt:
        told = run.interrupted()
        if has_codes:
            told += "; all of its codes are equally likely until fit_codes(vae, data) fits p(code)"
        raise KeyboardInterrupt(told) from None
    finally:
        run.settle()
        if has_codes:
            vae.model.prior.take(None)  # it was fitted to the codes of other weights
    if has_codes:
        fit_codes(vae, data)
    return run.history


class _Run:
    """A training as `fit` follows it: its epochs, whether it is to end, and the weights that stay."""

    def __init__(
        self,
        svi: SVI,
        epochs: int,
        size: int,
        *,
        keep: str,
        report: Callable[[Epoch], object] | None,
    ) -> None:
        self.svi, self.epochs, self.size, self.report = svi, epochs, size, report
        self.progress = Progress()
        self.history = History((), self.progress)
        self.best = _Best(svi, self.progress) if keep == "best" else None
        self.stopped = False

    def follow(self, each: Generator[Epoch, None, None], bar: Unseen) -> None:
        """Take epochs as they end, until there are no more."""
        with closing(each):
            for epoch in each:
                self.history.append(epoch)
                bar.epoch(epoch)
                if self.best is not None:
                    self.best.look(epoch)
                answer = None if self.report is None else self.report(epoch)
                # Other values are those of functions that return something by the way.
                self.stopped = isinstance(answer, bool | np.bool_) and bool(answer)

    def settle(self) -> None:
        """Leave the weights that are to stay."""
        if self.best is not None and self.best.states:
            self.best.restore()
        elif self.svi.average is not None:
            self.svi.average.keep()

    def interrupted(self) -> str:
        """How far training came, and which weights stay."""
        done, position = self.progress.epoch, self.progress.position
        kept = "the weights reached then"
        if self.svi.average is not None:
            kept = "their average"
        if self.best is not None and self.best.states:
            kept = f"the weights of epoch {self.progress.best_epoch}, the best"
        done = min(done, self.epochs - 1)
        where = f"epoch {done + 1} of {self.epochs}, after {position:,} of {self.size:,} data"
        return f"fit was interrupted in {where}: the pair has {kept}"


class _Best:
    """The weights of the best epoch so far, their average where one follows them."""

    def __init__(self, svi: SVI, progress: Progress) -> None:
        self.svi, self.progress = svi, progress
        programs = (svi.model, svi.guide)
        self.modules = [p for p in programs if isinstance(p, nn.Module)]
        self.states: list[dict[str, Tensor]] = []

    def look(self, epoch: Epoch) -> None:
        """Take the weights over where the epoch that has ended is the best."""
        if self.progress.best_epoch != epoch.epoch:
            return
        with self.svi.averaged():
            states = [module.state_dict() for module in self.modules]
            self.states = [{k: v.clone() for k, v in some.items()} for some in states]

    def restore(self) -> None:
        """Put them back."""
        for module, state in zip(self.modules, self.states, strict=False):
            module.load_state_dict(state)


def _second_prior(vae: Any, weight_decay: float) -> nn.Module:
    """The prior of a pair that is to be trained alone."""
    if not isinstance(vae, VAE):
        raise InputError(
            f"only='prior' trains the prior of a VAE of this package, and {type(vae).__name__} is none"
        )
    check_learned(vae.model.prior)
    if weight_decay:
        raise InputError(
            f"weight_decay={weight_decay:g} spares the prior, and with only='prior' nothing else moves: leave it out"
        )
    return vae.model.prior


def turn_of(
    vae: Any, data: Any, epochs: int, batch_size: int, *, fresh: bool = False
) -> Turn:
    """Where the parts of a pair's p(z) are sought among its codes, and of a `fresh` one few labels learned first."""
    after = getattr(vae, "seek_after", 0)
    if after != 0 and vae.model.of_z.y and has_labels(data):
        after = 0  # they say which class is which
    if after is None:
        after = epochs_before(-(-len(data) // batch_size), epochs)
    turn = Turn(after, partial(seek, vae, data))
    return turn._replace(first=partial(begin, vae, data)) if fresh else turn
