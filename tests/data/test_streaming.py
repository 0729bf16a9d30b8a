"""Data that stay on disk: the same numbers as in memory, a bounded share of it, and nothing left running."""

import csv
import ctypes
import mmap
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from conftest import SMALL
from pyro_vae import (
    MLP,
    SVI,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    StandardNormal,
    elbo,
    load_data,
)
from pyro_vae.data import Bridge, Split, fields, streams
from pyro_vae.data.bridges import AsStored, DynamicBits
from pyro_vae.data.images import survey
from pyro_vae.data.streams import Mapped
from pyro_vae.inference.fit import Progress, run_epochs
from pyro_vae.inference.objectives import ELBO

pytestmark = pytest.mark.usefixtures("blank_figures")

N, SHAPE = 61, (5, 3)


@pytest.fixture(autouse=True)
def no_worker_is_left():
    yield
    for child in multiprocessing.active_children():
        child.join(5)
    assert not multiprocessing.active_children()


@pytest.fixture
def levels(tmp_path):
    """A .npy file of grey levels."""
    array = np.random.RandomState(0).randint(0, 256, (N, *SHAPE)).astype(np.uint8)
    np.save(tmp_path / "levels.npy", array)
    return tmp_path / "levels.npy"


@pytest.fixture
def folder(tmp_path):
    """A folder of coloured images."""
    images = np.random.RandomState(0).randint(0, 256, (40, 6, 5, 3)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02}.png")
    return tmp_path / "images"


def both(path, **options):
    """A data set in memory and the same on disk."""
    return load_data(str(path), stream=False), load_data(
        str(path), stream=True, **options
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_values_and_splits_are_those_in_memory(levels, folder, workers):
    for path in (levels, folder):
        memory, disk = both(path, workers=workers)
        assert isinstance(disk.values["train"], streams.Stream)
        assert (memory.representation, memory.maximum, memory.shape) == (
            disk.representation,
            disk.maximum,
            disk.shape,
        )
        for split, values in memory.values.items():
            assert disk.values[split][:].equal(values)
            assert disk.values[split][torch.tensor([2, 0])].equal(values[[2, 0]])
            order = torch.randperm(len(values))
            found = list(disk.values[split].batches(order, 4))
            assert [len(x) for x in found] == [len(i) for i in order.split(4)]
            assert torch.cat(found).equal(values[order])


@pytest.mark.parametrize("kind", Bridge.kinds())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pieces", [(2**18, 2**14), (45, 2**14), (45, 7)])
def test_bits_and_noise_are_those_in_memory(levels, monkeypatch, kind, dtype, pieces):
    block, states = pieces
    monkeypatch.setattr(fields, "BLOCK", block)
    monkeypatch.setattr(fields, "STATES", states)
    memory, disk = (data.values["train"] for data in both(levels, workers=0))
    bridge = Bridge.kinds()[kind](255.0)
    a, b = (Split(values, bridge, dtype).fixed(seed=3) for values in (memory, disk))
    assert b[:].equal(a[:])
    assert b[30:].equal(a[30:])  # without those before
    order = torch.randperm(len(a))
    for x, y in zip(a.batches(order, 7), b.batches(order, 7), strict=True):
        assert x.dtype is dtype
        assert x.equal(y)
    assert a.first(5)[:].equal(b.first(5)[:])
    if hasattr(b.values, "states"):
        assert len(b.values.states) <= states
    a, b = (
        Split(values, bridge, dtype) for values in (memory, disk)
    )  # drawn anew, from the global generator
    torch.manual_seed(1)
    first = [x.clone() for x in a.batches(order, 7)]
    torch.manual_seed(1)
    assert all(x.equal(y) for x, y in zip(first, b.batches(order, 7), strict=True))


def test_moments_are_those_of_all_at_once(levels, monkeypatch):
    memory, disk = (data.values["train"] for data in both(levels, workers=0))
    monkeypatch.setattr(fields, "CHUNK", 7 * 15)  # seven data at a time
    x = memory.double()
    for values in (memory, disk):
        mean, std = Split(values, AsStored(), torch.float64).moments()
        torch.testing.assert_close(mean, x.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(std, x.std(0, correction=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "array",
    [
        np.tile([0, 1], 20),
        np.r_[np.zeros(30), 0.5 * np.ones(10)],
        np.r_[np.zeros(30), -np.ones(10)],
        np.r_[0.5 * np.ones(30), 3 * np.ones(10)],
        np.r_[np.zeros(30), 3 * np.ones(10)],
        np.r_[np.zeros(30, np.int64), np.arange(10)],
        np.r_[np.zeros(30, np.int64), -np.arange(10)],
        np.r_[np.zeros(30, np.uint8), np.arange(10, dtype=np.uint8)],
        np.tile([False, True], 20),
    ],
    ids=lambda a: f"{a.dtype}-{a.min()}-{a.max()}",
)
def test_what_the_values_are_is_found_piece_by_piece(tmp_path, monkeypatch, array):
    from pyro_vae.data.representation import Representation

    np.save(tmp_path / "x.npy", array[:, None])
    whole = torch.from_numpy(array.astype(np.uint8) if array.dtype == bool else array)
    monkeypatch.setattr(streams, "CHUNK", 4)
    for data in both(tmp_path / "x.npy", workers=0):
        bits = len(np.unique(array)) == 2  # in any spelling
        expected = Representation.BINARY if bits else Representation.of(whole)
        assert data.representation is expected
        small = data.representation in (Representation.BINARY, Representation.UNIT)
        levels = data.representation is Representation.LEVELS
        assert data.maximum == (
            1.0 if small else 255.0 if levels else float(array.max())
        )


def make():
    pyro.set_rng_seed(0)
    vae = VAE(
        StandardNormal(2),
        MLP((2,), (1, *SHAPE), hidden=(8,)),
        Bernoulli(SHAPE),
        MeanField(MLP(SHAPE), 2),
    )
    return vae, SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=0.01),
        ELBO(),
        reduction="mean",
    )


def trained(data, *, stop=None, epochs=3, compile=False):
    """The weights and the numbers of each epoch, broken off after `stop` steps and gone on with."""
    vae, svi = make()
    progress, steps = Progress(), 0

    def halt():
        nonlocal steps
        steps += 1
        return steps == stop

    splits = [data.split(name, DynamicBits(255.0)) for name in ("train", "validation")]
    train, validation = splits
    options = {
        "epochs": epochs,
        "batch_size": 7,
        "validation": validation,
        "compile": compile,
        "progress": progress,
    }
    rows = list(run_epochs(svi, train, stop=halt, **options))
    if stop is not None:
        assert progress.position  # inside an epoch
        rows += run_epochs(svi, train, **options)
    return {k: v.clone() for k, v in vae.state_dict().items()}, [
        row[:8] for row in rows
    ]


def same(one, other):
    assert one[1] == other[1]
    assert all(v.equal(other[0][k]) for k, v in one[0].items())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_bit_by_bit(levels, workers):
    memory, disk = both(levels, workers=workers)
    expected = trained(memory)
    same(expected, trained(disk))
    same(expected, trained(disk, stop=9))


@pytest.mark.slow
def test_training_by_compiled_steps_is_the_same_bit_by_bit(levels):
    memory, disk = both(levels, workers=2)
    same(trained(memory, compile=True), trained(disk, compile=True))


def test_evaluation_is_the_same_bit_by_bit(levels):
    vae, _ = make()
    found = []
    for data in both(levels, workers=1):
        torch.manual_seed(0)
        found.append(
            elbo(
                vae.model,
                vae.guide,
                data.split("test", DynamicBits(255.0)),
                batch_size=5,
            )
        )
    assert found[0] == found[1]


def test_reading_ahead_leaves_the_random_state(levels):
    _, disk = both(levels, workers=2)
    before = torch.get_rng_state()
    next(
        disk.values["train"].batches(torch.arange(20), 5)
    )  # the rest is never asked for
    assert torch.get_rng_state().equal(before)


def test_only_pieces_are_read(tmp_path, monkeypatch):
    n, rows = 5000, []
    np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(n, *SHAPE)
    ).flush()
    read = Mapped.read
    monkeypatch.setattr(
        Mapped, "read", lambda self, index: rows.append(len(index)) or read(self, index)
    )
    monkeypatch.setattr(
        Mapped,
        "_array",
        lambda self: Unread(np.lib.format.open_memmap(self.path, mode="r")),
    )
    for module in (streams, fields):
        monkeypatch.setattr(module, "CHUNK", 1500 * 15)
    data = load_data(str(tmp_path / "x.npy"), stream=True, workers=0)
    train = data.split("train", AsStored())
    train.moments()
    _, svi = make()
    list(
        run_epochs(
            svi,
            train,
            epochs=1,
            batch_size=500,
            compile=False,
            validation=data.split("test", AsStored()),
        )
    )
    assert sum(rows) > 2 * n
    assert max(rows) <= 1500


def pages_in_memory(path):
    """How many pages of a file the system holds, by mincore(2)."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        count = -(-len(mapped) // mmap.PAGESIZE)
        found, place = (ctypes.c_ubyte * count)(), ctypes.c_char.from_buffer(mapped)
        code = ctypes.CDLL(None).mincore(
            ctypes.byref(place), ctypes.c_size_t(len(mapped)), found
        )
        del place
    assert code == 0
    return sum(state & 1 for state in found)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it holds")
def test_scattered_rows_are_read_without_what_lies_around_them(tmp_path):
    path, rows, width = tmp_path / "x.npy", 10_000, 784
    array = np.random.RandomState(0).rand(rows, width).astype(np.float32)
    np.save(path, array)
    stream, index = Mapped(path), np.arange(0, rows, 400)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(path):
        pytest.skip("the file lies in memory")
    before = stream.read(np.arange(1)).numel() and pages_in_memory(path)
    assert (stream.read(index[::-1]).numpy() == array[index[::-1]]).all()
    # A row of 3,136 bytes lies on two pages.
    assert pages_in_memory(path) - before <= 2 * len(index)


@pytest.mark.parametrize(
    "index",
    [[], [3], [59, 0, 0, 7], [-1, 2], [[1, 2], [3, 4]], 5, [*range(0, 61, 2)]],
    ids=str,
)
def test_rows_are_those_of_an_array(tmp_path, index):
    index = np.array(index, dtype=int)
    for array in (
        np.arange(61 * 15).reshape(61, 15),
        np.asfortranarray(np.arange(61 * 15).reshape(61, 15)),
        np.arange(61.0),
    ):
        np.save(tmp_path / "x.npy", array)
        assert (Mapped(tmp_path / "x.npy").read(index).numpy() == array[index]).all()
    with pytest.raises(IndexError):
        Mapped(tmp_path / "x.npy").read(np.array([61]))


class Unread:
    """An array on disk of which only some rows can be had, and nothing done to the whole."""

    def __init__(self, array):
        self.array, self.shape, self.base = array, array.shape, None

    def __getitem__(self, index):
        return self.array[index]

    def __array__(self, *args, **kwargs):
        raise AssertionError("read as a whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_training_with_one_sentence(
    folder, call, tmp_path, monkeypatch, workers
):
    def damage(self, epoch, **more):
        (folder / "07.png").write_bytes(b"no image")

    monkeypatch.setattr("pyro_vae.train.Display.epoch", damage)
    options = (
        "--likelihood",
        "gaussian",
        "--scale",
        *SMALL,
        "--stream",
        "yes",
        "--workers",
        workers,
    )
    options = (*options, "--test-fraction", 0, "--validation-fraction", 0)
    said = call(
        "train",
        "--dataset",
        folder,
        *options,
        "--epochs",
        3,
        "--output",
        tmp_path / "run",
    )
    assert said.code == 2
    assert "epoch 1 is kept" in said.err
    assert len(said.err.splitlines()) == 1, said.err
    assert "07.png cannot be read as an image" in said.err
    assert (tmp_path / "run" / "last.safetensors").is_file()


def numbers(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [list(row.values())[:9] for row in csv.DictReader(file)]


def test_programs_say_the_same(folder, train, call):
    options = (
        "--dataset",
        folder,
        "--likelihood",
        "gaussian",
        "--dequantize",
        *SMALL,
        "--batch-size",
        10,
    )
    memory = train("memory", *options, "--epochs", 2, "--stream", "no")
    disk = train("disk", *options, "--epochs", 1, "--stream", "yes", "--workers", 1)
    said = call("train", "--resume", disk, "--epochs", 2, "--workers", 0)
    assert (said.code, said.err) == (0, "")
    assert "on disk    3.6e-06 GB, read batch by batch\n" in said.out
    assert numbers(memory) == numbers(disk)
    for run in (memory, disk):
        assert call("evaluate", run, "--num-particles", 50).code == 0
    found = [dict(np.load(run / "evaluation.npz")) for run in (memory, disk)]
    assert all((v == found[1][k]).all() for k, v in found[0].items())


def test_auto_goes_by_the_memory_available(levels, folder, monkeypatch):
    monkeypatch.setattr(streams, "available_memory", lambda: 20_000)
    assert isinstance(load_data(str(levels)).values["train"], torch.Tensor)
    assert isinstance(load_data(str(folder)).values["train"], torch.Tensor)
    monkeypatch.setattr(streams, "available_memory", lambda: 100)
    assert isinstance(load_data(str(levels)).values["train"], streams.Stream)
    assert isinstance(load_data(str(folder)).values["train"], streams.Stream)
    assert isinstance(
        load_data(str(levels), stream=False).values["train"], torch.Tensor
    )


def test_available_memory_is_a_number():
    assert 2**20 < streams.available_memory() < 2**60


def test_labels_stay_with_their_data(folder, tmp_path):
    for i in range(0, 40, 2):
        (folder / "even").mkdir(exist_ok=True)
        (folder / f"{i:02}.png").rename(folder / "even" / f"{i:02}.png")
    memory, disk = both(folder, workers=0)
    assert all(
        (memory.labels[k] == v).all() and len(v) == len(disk.values[k])
        for k, v in disk.labels.items()
    )


def test_a_worker_that_is_killed_is_told_of(levels):
    class Deadly(Mapped):
        def read(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        InputError, match=r"a process that reads data ended .* use fewer --workers"
    ):
        next(Deadly(levels, 1).batches(torch.arange(5), 5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--dataset", "digits", "--stream", "yes"),
            "--stream is for a folder of images or a .npy file",
        ),
        (("--workers", "-1"), "--workers=-1 must be a whole number from 0"),
    ],
)
def test_refusals(refused, options, words):
    assert words in refused("train", *options)


def test_what_is_wrong_with_a_file_is_said_with_its_row(tmp_path):
    array = np.ones((20, 3))
    array[13, 1] = np.nan
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "text.npy", np.array([["a"], ["b"]]))
    (tmp_path / "no.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="missing or infinite in datum 13"):
        load_data(str(tmp_path / "x.npy"), stream=True, workers=0)
    with pytest.raises(InputError, match="and not numbers"):
        load_data(str(tmp_path / "text.npy"), stream=True, workers=0)
    with pytest.raises(InputError, match=r"not a \.npy file"):
        load_data(str(tmp_path / "no.npy"), stream=True)


def test_a_stream_goes_to_a_new_process(levels, folder):
    images, _ = survey(folder, sorted(os.listdir(folder)), workers=2)
    for stream in (Mapped(levels, 2), images):
        split = Split(stream.take(torch.arange(20)), DynamicBits(255.0)).fixed()
        there = pickle.loads(pickle.dumps(streams._Batches(split.values)))
        assert there[np.arange(5)].equal(split.values[:5])


@pytest.mark.slow
def test_workers_started_afresh(levels):
    code = (
        "import multiprocessing, sys, torch\n"
        "from pyro_vae.data.streams import Mapped\n"
        "multiprocessing.set_start_method('spawn')\n"
        "x = Mapped(sys.argv[1], 2)\n"
        "assert torch.cat(list(x.batches(torch.arange(61), 7))).equal(x[:])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(levels)], check=True, timeout=300)
