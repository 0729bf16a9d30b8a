"""The training loop: what it reports, in which order, and when it stops."""

import math
from contextlib import nullcontext

import pyro.infer
import pytest
import torch

from ppca import PPCA
from pyro_vae import (
    ELBO,
    IWAE,
    SVI,
    InputError,
    Spec,
    TrainingWarning,
    build,
    elbo,
    fit,
    terms,
)
from pyro_vae.inference.epochs import Epoch
from pyro_vae.inference.fit import NonFiniteLossError, Progress, run_epochs
from pyro_vae.inference.held import ELBO as BOUND
from pyro_vae.inference.held import judge
from pyro_vae.inference.schedules import cosine


def still(vae, loss, **options):
    """An SVI that never moves: what is reported can be compared with the same parameters."""
    return SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.0),
        loss,
        reduction="mean",
        **options,
    )


def bits(n, seed=0):
    return (
        torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)).round().double()
    )


def make():
    torch.manual_seed(0)
    return build(Spec((4,), 2, network="mlp(hidden=(5,))")).double()


def test_what_is_reported_is_the_plain_elbo_whatever_is_optimised():
    """With the exact guide every draw gives log p(x): ELBO(beta=3) must still report it."""
    model = PPCA(2, 4)
    x = model.sample(25)
    truth = model.marginal.log_prob(x).mean().item()
    for loss in (
        ELBO(beta=3.0),
        IWAE(num_particles=4),
        pyro.infer.Trace_ELBO(),
        pyro.infer.TraceMeanField_ELBO(),
    ):
        (epoch,) = run_epochs(
            still(model.vae, loss),
            x,
            epochs=1,
            batch_size=10,
            learning_rate=0.0,
            validation=model.sample(7, seed=1),
        )
        assert epoch.elbo == pytest.approx(truth, abs=1e-9)
        assert epoch.elbo == pytest.approx(epoch.reconstruction - epoch.kl)
        assert epoch.validation_elbo == pytest.approx(
            model.marginal.log_prob(model.sample(7, seed=1)).mean().item()
        )


def test_the_loss_is_the_objective_per_datum():
    vae, x = make(), bits(25)
    (epoch,) = run_epochs(
        still(vae, ELBO(beta=0.0)), x, epochs=1, batch_size=10, learning_rate=0.0
    )
    assert epoch.loss == pytest.approx(-epoch.reconstruction)
    (epoch,) = run_epochs(
        still(vae, ELBO()), x, epochs=1, batch_size=10, learning_rate=0.0
    )
    assert epoch.loss == pytest.approx(-epoch.elbo)
    assert math.isnan(epoch.validation_elbo)


def test_every_datum_is_seen_once_an_epoch():
    seen = []

    class Watched:
        device = "cpu"

        def __len__(self):
            return 23

        def __getitem__(self, index):
            seen.append(index)
            return bits(23)[index]

    vae = make()
    list(run_epochs(still(vae, ELBO()), Watched(), epochs=3, batch_size=10))
    assert [len(i) for i in seen] == [10, 10, 3] * 3
    orders = [torch.cat(seen[i : i + 3]) for i in (0, 3, 6)]
    assert all(order.sort().values.tolist() == list(range(23)) for order in orders)
    assert not torch.equal(orders[0], orders[1])


def test_the_schedule_reaches_the_optimizer_before_each_step():
    vae, rates = make(), []
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=9.0),
        ELBO(),
        reduction="mean",
    )
    real = svi.optimizer.step

    def step():
        rates.append(svi.optimizer.param_groups[0]["lr"])
        return real()

    svi.optimizer.step = step
    list(
        run_epochs(
            svi, bits(20), epochs=2, batch_size=10, learning_rate=0.1, schedule=cosine
        )
    )
    assert rates == pytest.approx([0.1 * cosine(t) for t in (0, 0.25, 0.5, 0.75)])


def test_validation_uses_the_same_numbers_every_time_and_leaves_training_alone():
    def run(validation):
        vae = make()
        torch.manual_seed(5)
        return fit(vae, bits(20), epochs=3, validation=validation), vae

    (with_validation, a), (without, b) = run(bits(9, seed=1)), run(None)
    assert [e.loss for e in with_validation] == [e.loss for e in without]
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
    vae = make()
    history = [
        e.validation_elbo
        for e in run_epochs(
            still(vae, ELBO()),
            bits(20),
            epochs=2,
            learning_rate=0.0,
            validation=bits(9, seed=1),
        )
    ]
    assert history[0] == history[1]


def test_fit_improves_and_history_knows_the_best():
    vae = make()
    x = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).double().repeat(40, 1)
    before = elbo(vae.model, vae.guide, x, num_particles=50).elbo
    history = fit(vae, x, epochs=150, batch_size=20, learning_rate=0.02, validation=x)
    after = elbo(vae.model, vae.guide, x, num_particles=50).elbo
    assert before < -2.5
    assert after > -1.2  # two equally likely data: log p(x) = -0.69 at best
    assert history.best.validation_elbo == max(e.validation_elbo for e in history)


def test_dropout_is_off_in_validation_and_on_in_training():
    vae = build(Spec((4,), 2, network="mlp(hidden=(50,), dropout=0.5)")).double()
    modes = []
    vae.guide.encoder.register_forward_hook(
        lambda module, args, out: modes.append(module.training)
    )
    fit(vae, bits(10), epochs=1, validation=bits(5))
    assert modes == [True, False]


def test_stopping_inside_an_epoch_and_going_on_changes_nothing():
    def run(stops):
        vae, progress, steps = make(), Progress(), []
        svi = SVI(
            vae.model,
            vae.guide,
            lambda p: torch.optim.Adam(p, lr=0.01),
            ELBO(),
            reduction="mean",
        )
        torch.manual_seed(3)
        epochs = []
        for limit in [*stops, 10**9]:

            def stop(limit=limit):
                steps.append(1)
                return len(steps) >= limit

            epochs += run_epochs(
                svi,
                bits(45),
                epochs=3,
                batch_size=10,
                validation=bits(6),
                progress=progress,
                stop=stop,
            )
        return vae, epochs

    (a, whole), (b, parts) = run([]), run([2, 7, 11])
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [e[:9] for e in whole] == [e[:9] for e in parts]  # all but the time


def test_a_loss_that_is_not_finite_names_step_and_site():
    vae = make()
    x = bits(30)
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.0),
        ELBO(),
        reduction="mean",
    )
    steps = []

    def stop():
        steps.append(1)
        if (
            len(steps) == 5
        ):  # asked after each step and each epoch: after the fourth step the decoder breaks
            with torch.no_grad():
                vae.model.decoder.layers[-1].weight.fill_(math.nan)
        return False

    with pytest.raises(
        NonFiniteLossError,
        match=r"step 5: the log-probability of site 'x' under the model is nan",
    ):
        list(run_epochs(svi, x, epochs=3, batch_size=10, stop=stop))


@pytest.mark.parametrize("validation", [None, bits(5)], ids=["without", "with"])
def test_parameters_that_break_at_the_end_of_an_epoch_are_not_called_an_epoch(
    validation,
):
    """The loss of the last step is finite and its update is not: a checkpoint after it would be worthless."""
    vae = make()
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.0),
        ELBO(),
        reduction="mean",
    )
    real, steps = svi.optimizer.step, []

    def step():
        real()
        steps.append(1)
        if len(steps) == 6:
            with torch.no_grad():
                vae.guide.head.bias.fill_(math.nan)

    svi.optimizer.step = step
    epochs = run_epochs(svi, bits(30), epochs=3, batch_size=10, validation=validation)
    assert next(epochs).epoch == 1
    with pytest.raises(
        NonFiniteLossError, match="parameter stopped being finite at step 6"
    ):
        next(epochs)


def test_bf16_runs_the_networks_in_bf16_and_keeps_the_parameters():
    vae = make().float()
    seen = []
    vae.guide.encoder.layers[0].register_forward_hook(
        lambda module, args, out: seen.append(out.dtype)
    )
    svi = still(vae, ELBO(), autocast=torch.bfloat16)
    loss, _ = svi.differentiate(bits(8).float())
    assert seen == [torch.bfloat16]
    assert all(p.dtype is p.grad.dtype is torch.float32 for p in vae.parameters())
    with torch.no_grad():
        exact = -terms(
            vae.model, vae.guide, bits(8).float(), num_particles=200
        ).log_weight.mean()
    assert abs(loss - exact) < 1.0


def test_num_particles_must_be_a_number():
    for bad in (0, -1, 1.5, "a"):
        with pytest.raises(InputError, match="num_particles"):
            ELBO(num_particles=bad)
    for bad in (-0.1, math.inf, "a"):
        with pytest.raises(InputError, match="beta"):
            ELBO(beta=bad)


@pytest.mark.parametrize("average", [None, 0.5])
def test_the_best_weights_are_kept_where_asked(average):
    """They give the best validation ELBO again, with the random numbers of validation; the last ones do not."""
    found = {}
    for keep in ("last", "best"):
        vae, seen = make(), []
        options = {"validation": bits(30, 1), "average": average, "compile": False}
        options |= {"epochs": 8, "batch_size": 10, "learning_rate": 1.0}
        torch.manual_seed(1)
        last = keep == "last"
        with pytest.warns(TrainingWarning, match="overfits") if last else nullcontext():
            history = fit(vae, bits(40), **options, keep=keep, report=seen.append)
        assert seen == list(history)
        assert isinstance(seen[0], Epoch)
        bounds = [epoch.validation_elbo for epoch in history]
        assert max(bounds) > bounds[-1] + 0.01
        torch.manual_seed(0)
        vae.eval()
        found[keep] = (
            judge(vae.model, vae.guide, bits(30, 1), None)[BOUND].mean().item()
        )
    assert found["last"] == pytest.approx(bounds[-1], abs=1e-9)
    assert found["best"] == pytest.approx(max(bounds), abs=1e-9)
