"""Several threads of a process, such as those of a web server, that train and evaluate at the same time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from safetensors.torch import load_file

from conftest import SMALL
from pyro_vae import ELBO, SVI, Spec, build, elbo, fit, log_marginal
from pyro_vae.foundation.abstract import alone, is_traced, traced


def at_once(*calls):
    """What the calls return, each in a thread of its own; the first error is raised."""
    ready = threading.Barrier(len(calls))

    def run(call):
        ready.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [
            future.result() for future in [pool.submit(run, call) for call in calls]
        ]


def pair(seed, guide="meanfield"):
    torch.manual_seed(seed)
    vae = build(
        Spec((12,), 2, network="mlp(hidden=(8,))", guide=guide, likelihood="bernoulli")
    )
    return vae, torch.rand(60, 12).round()


def points(seed):
    """Training without a random number but the order of the data, which is all of them at a time."""
    vae, x = pair(seed, "delta")
    return lambda: [
        e.elbo for e in fit(vae, x, epochs=40, batch_size=60, compile=False)
    ]


def test_fits_in_threads_end_where_they_end_alone():
    alone_ = [points(seed)() for seed in range(3)]
    together = at_once(*[points(seed) for seed in range(3)])
    for one, other in zip(together, alone_, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_all_verbs_in_threads_at_once():
    (first, x), (second, y) = pair(0), pair(1)
    svi = SVI(
        second.model, second.guide, lambda p: torch.optim.Adam(p, lr=1e-3), ELBO()
    )
    before = pyro.settings.get()

    def steps():
        return [svi.step(y).item() for _ in range(60)]

    history, values, bounds, losses = at_once(
        lambda: fit(first, x, epochs=30, batch_size=20),
        lambda: [
            log_marginal(second.model, second.guide, y, num_particles=50)
            for _ in range(10)
        ],
        lambda: [elbo(first.model, first.guide, x).elbo for _ in range(60)],
        steps,
    )
    assert len(history) == 30
    assert history[-1].elbo > history[0].elbo
    assert all(v.values.isfinite().all() for v in values)
    assert len(bounds) == len(losses) == 60
    assert not _PYRO_STACK
    assert pyro.settings.get() == before
    assert (
        len(pyro.get_param_store()) == 0
    )  # as for one thread: parameters are the module's own


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.watch.TrainingWarning")
def test_one_thread_does_not_keep_the_others_waiting_until_its_end():
    (first, x), (second, y) = pair(0), pair(1)
    ends = {}

    def train(name, vae, data, epochs):
        fit(vae, data, epochs=epochs, batch_size=10, compile=False)
        ends[name] = time.perf_counter()

    at_once(lambda: train("long", first, x, 60), lambda: train("short", second, y, 6))
    assert ends["short"] < ends["long"]


def test_what_one_thread_traces_another_does_not_see():
    seen = []
    with traced():
        thread = threading.Thread(target=lambda: seen.append(is_traced()))
        thread.start()
        thread.join()
        assert is_traced()
    assert seen == [False]


def test_a_thread_that_needs_the_process_waits_for_it():
    order = []

    def late():
        with alone():
            order.append("late")

    with alone(), alone():
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "late"]


def test_training_in_threads_gives_the_weights_of_training_alone(tmp_path):
    """`main` as a web server calls it, where no signal can be heard."""
    from pyro_vae.train import main

    def train(seed, name):
        main(
            [
                "--epochs",
                "1",
                "--latent-dim",
                "2",
                *SMALL,
                "--seed",
                str(seed),
                "--output",
                str(tmp_path / name),
            ]
        )

    for seed in (0, 1):
        train(seed, f"alone{seed}")
    at_once(lambda: train(0, "thread0"), lambda: train(1, "thread1"))
    for seed in (0, 1):
        one, other = (
            load_file(tmp_path / f"{way}{seed}" / "best.safetensors")
            for way in ("alone", "thread")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
