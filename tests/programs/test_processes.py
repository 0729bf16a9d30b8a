"""Several processes, as torchrun starts them: what they find is what one finds, and none is left behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae._cli.options import run as run_program
from pyro_vae.engine.processes import Processes
from pyro_vae.engine.skipping import Streams, spent
from pyro_vae.foundation.errors import InputError, LostError
from reading import TINY, mentions, rows, same, weights

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

SECONDS = 300  # that no launch takes, on a busy machine either
# Nothing is random in these but the weights and the order of the data.
FIXED = ("--guide", "delta", "--objective", "autoencoder", "--likelihood", "gaussian")


def launched(folder, count, *command):
    """`torchrun --nproc-per-node COUNT -m pyro_vae.COMMAND` in `folder`, as a process of its own."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    words = (*torchrun, count, "-m", f"pyro_vae.{command[0]}", *command[1:])
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def endless(folder):
    """Two processes that train on, one epoch of which is done, and their numbers."""
    options = ("--epochs", 10**6, *TINY, "--compile", "no", "--output", "run")
    process = launched(folder, 2, "train", *options)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    return process, ranks


def together(folder, count, *command, fails=False):
    """What a program prints that several processes do."""
    process = launched(folder, count, *command)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode != 0) == fails, err
    return said(err) if fails else out


def said(err):
    """The lines of our own programs among what torchrun reports."""
    return [line for line in err.splitlines() if re.match(r"pyro_vae\.\w+: ", line)]


def by_hand(folder, *commands, port):
    """A process for each command, with the environment that torchrun would give it."""
    processes = []
    for rank, command in enumerate(commands):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = ["-m", f"pyro_vae.{command[0]}", *map(str, command[1:])]
        processes.append(
            subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env={**os.environ, **{k: str(v) for k, v in names.items()}},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate(timeout=SECONDS) for process in processes]
    return [p.returncode for p in processes], [err for _, err in told]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def children_of(pid):
    """The processes that a process started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run of three epochs by two processes, and what they printed; copy it before changing it."""
    folder = tmp_path_factory.mktemp("pair")
    out = together(folder, 2, "train", "--epochs", 3, *TINY, "--output", "run")
    return folder / "run", out


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_each_datum_is_of_one_process_and_shares_keep_to_their_batch(world):
    for size, batch_size in ((50, 10), (53, 10), (51, 10), (7, 7)):
        order, positions = torch.randperm(size), []
        for rank in range(world):
            each, mine = Processes(rank, world).mine(order, batch_size)
            steps = mine.split(each)
            assert len(steps) == -(-size // batch_size)
            for i, step in enumerate(steps):
                batch = order[i * batch_size :][:batch_size]
                share = Processes(rank, world).share(len(batch))
                own = batch[share.start : share.stop]
                assert torch.equal(step, own if len(own) else batch[:1])
                positions += own.tolist()
        assert sorted(positions) == list(range(size))


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.randn(1000, 3),
        lambda: torch.rand(7),
        lambda: torch.randperm(700),
        lambda: torch.randn(64, dtype=torch.float64),
        lambda: torch.multinomial(torch.ones(5, 8), 3),
    ],
)
def test_random_numbers_of_others_are_skipped_and_not_drawn(take):
    torch.manual_seed(3)
    torch.rand(5)
    before = Streams.now()
    take()
    after = Streams.now()
    before.put()
    spent(before, after).skip()
    assert Streams.now().content == after.content
    before.put()
    for _ in range(3):
        take()
    three = Streams.now()
    before.put()
    spent(before, after).skip(3)
    assert Streams.now().content == three.content


def test_a_new_seed_cannot_be_skipped_to():
    before = Streams.now()
    torch.randn(3)  # keeps the second number of a pair
    assert spent(before, Streams.now()) is None


def test_the_same_curve_whatever_the_number_of_processes(call, tmp_path):
    """Two of them read their shares from the disk; the last batch of 130 data has two, and four processes share it."""
    x = np.random.default_rng(0).normal(size=(130, 5)).cumsum(1).astype(np.float32)
    np.savez("x.npz", train=x, validation=x[:30] + 1, test=x[:9])
    np.save("rows.npy", x)
    options = ("--epochs", 3, "--batch-size", 32, *TINY, *FIXED, "--average", 0.9)
    data = ("--dataset", "x.npz", *options)
    assert call("train", *data, "--output", "one").code == 0
    assert call("train", "--dataset", "rows.npy", *options, "--output", "in").code == 0
    together(tmp_path, 4, "train", *data, "--output", "four")
    streamed = ("--dataset", "rows.npy", *options, "--stream", "yes", "--workers", 1)
    together(tmp_path, 2, "train", *streamed, "--output", "two")
    for alone, shared in (("one", "four"), ("in", "two")):
        first, second = weights(Path(alone)), weights(Path(shared))
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(second[name], first[name], rtol=0, atol=2e-5)
        for a, b in zip(rows(Path(alone)), rows(Path(shared)), strict=True):
            for name in ("loss", "elbo", "validation_elbo"):
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-5)


def test_em_adds_up_its_sums(call, tmp_path):
    x = np.random.default_rng(1).normal(size=(70, 4)) @ np.diag([3, 2, 1, 1])
    np.save("x.npy", x.astype(np.float32))
    linear = ("--network", "linear", "--guide", "exact", "--likelihood", "gaussian")
    data = ("--dataset", "x.npy", *linear, "--optimizer", "em", "--latent-dim", 2)
    options = ("--epochs", 4, "--batch-size", 16, "--precision", "float64")
    assert call("train", *data, *options, "--output", "one").code == 0
    together(tmp_path, 2, "train", *data, *options, "--output", "two")
    first, second = weights(Path("one")), weights(Path("two"))
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-6, atol=1e-6)


def test_noise_of_its_own_in_each_process_and_one_that_speaks(call, pair):
    run, out = pair
    assert call("train", "--epochs", 3, *TINY, "--output", "one").code == 0
    alone, shared = rows(Path("one")), rows(run)
    assert alone[0]["elbo"] != shared[0]["elbo"]
    for a, b in zip(alone, shared, strict=True):
        assert float(a["elbo"]) == pytest.approx(float(b["elbo"]), abs=0.5)
    assert [line[:9] for line in out.splitlines() if line.startswith("epoch")] == [
        f"epoch {i}/3" for i in (1, 2, 3)
    ]
    mentions(out, "2 processes, the first on cpu")
    names = {path.name for path in run.iterdir()}
    assert names == {*(path.name for path in Path("one").iterdir())}


def test_resume_is_exact_by_as_many_and_goes_on_by_others(call, pair, tmp_path):
    run, _ = pair
    together(tmp_path, 2, "train", "--epochs", 1, *TINY, "--output", "part")
    shutil.copytree("part", "other")
    together(tmp_path, 2, "train", "--resume", "part", "--epochs", 3)
    assert same(weights(Path("part")), weights(run))
    assert [r["elbo"] for r in rows(Path("part"))] == [r["elbo"] for r in rows(run)]
    said = call("train", "--resume", "other", "--epochs", 2)
    assert said.code == 0
    mentions(said.out, "processes  1 where it were 2", "other random numbers")
    out = together(tmp_path, 3, "train", "--resume", "other", "--epochs", 3)
    mentions(out, "processes  3 where it were 1")
    assert len(rows(Path("other"))) == 3


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_takes_the_others_with_it(call, tmp_path, rank):
    process, ranks = endless(tmp_path)
    os.kill(ranks[rank], signal.SIGKILL)
    _, err = process.communicate(timeout=SECONDS)
    (sentence,) = said(err)
    mentions(sentence, "another of the 2 processes has ended; the checkpoint after")
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    done = len(rows(tmp_path / "run"))
    assert call("train", "--resume", "run", "--epochs", done + 1).code == 0
    assert len(rows(tmp_path / "run")) == done + 1


def test_a_kill_that_follows_a_loss_does_not_hide_it(capsys):
    """torchrun kills the others as soon as it finds one that has ended: here, while that is being told."""

    def loses(arguments):
        try:
            try:
                raise LostError("another has ended")
            except LostError as error:
                raise InputError(f"{error}; the checkpoint is kept") from error
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run_program("pyro_vae.train", loses)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "pyro_vae.train: another has ended; the checkpoint is kept\n"
    )


@pytest.mark.parametrize(("rank", "said"), [(0, "the program: interrupted\n"), (1, "")])
def test_one_says_that_all_were_interrupted(rank, said):
    """Before its imports, too."""
    lines = (
        "import os, signal, pyro_vae.foundation.endings as e",
        "e.at_once('the program')",
        "os.kill(os.getpid(), signal.SIGTERM)",
    )
    names = {"RANK": str(rank), "WORLD_SIZE": "2"}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        check=False,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (ended.returncode, ended.stderr) == (130, said)


def test_ctrl_c_stops_all_after_the_same_step(call, tmp_path):
    process, ranks = endless(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    mentions(out, "stopped and saved; go on with", "by torchrun as before")
    assert said(err) == ["pyro_vae.train: interrupted"]
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    done = len(rows(tmp_path / "run"))
    assert call("train", "--resume", "run", "--epochs", done + 1).code == 0
    assert len(rows(tmp_path / "run")) == done + 1


def test_evaluation_is_to_the_bit_that_of_one_process(call, pair, tmp_path):
    """Few draws are in memory at a time, so that there are many pieces of work, the last of them smaller."""
    for name in ("one", "two"):
        shutil.copytree(pair[0], name)
    options = ("--num-particles", 1000, "--limit", 25, "--memory", 4, "--ais")
    options += ("--chains", 4, "--temperatures", 10, "--adaptive", "--refine", 10)
    alone = call("evaluate", "one", *options)
    assert alone.code == 0
    out = together(tmp_path, 2, "evaluate", "two", *options)
    assert out.replace("two", "one") == alone.out
    (first,), (second,) = (Path(n).glob("evaluation*.npz") for n in ("one", "two"))
    with np.load(first) as a, np.load(second) as b:
        assert set(a.files) == set(b.files)
        for name in a.files:
            assert a[name].tobytes() == b[name].tobytes(), name


def test_what_cannot_be_shared_is_refused_in_a_sentence(tmp_path):
    (sentence,) = together(tmp_path, 2, "sample", "run", fails=True)
    mentions(sentence, "this program is one process, and 2 were started")
    (sentence,) = together(tmp_path, 2, "train", "--batch-size", 1, fails=True)
    mentions(sentence, "2 processes share a batch of 1 data")
    assert not any(tmp_path.iterdir())


def test_processes_that_do_not_belong_together_all_end(tmp_path):
    for name in ("a", "b"):
        x = np.random.default_rng(ord(name)).normal(size=(60, 4)).astype(np.float32)
        np.save(f"{name}.npy", x)
    commands = [("train", "--dataset", f"{n}.npy", *TINY) for n in ("a", "b")]
    codes, errors = by_hand(tmp_path, *commands, port=free_port())
    assert codes == [2, 2]
    (sentence,) = [line for err in errors for line in said(err)]
    mentions(sentence, "the processes do not have the same data")


def test_a_port_in_use_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        codes, (err,) = by_hand(tmp_path, ("train", *TINY), port=port)
    assert codes == [2]
    (sentence,) = said(err)
    mentions(sentence, "the 2 processes did not find each other", str(port))
    assert "Traceback" not in err
