"""Programs that write several files: those that belong together are all new or all old, and each other one is told."""

import errno
import json
import shutil

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure

from pyro_vae.evaluation.weighting import Weighting
from pyro_vae.foundation import files
from reading import contents, mentions, newest

QUICK = ("--limit", 6, "--num-particles", 20)
FULL = (errno.ENOSPC, "No space left on device")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def full(monkeypatch):
    """Let a writer fail as on a disk that is full, when half of its file is written."""

    def fill(owner, name, when=lambda path: True):
        write = getattr(owner, name)

        def half(*args, **kwargs):
            path = next(a for a in (*args, *kwargs.values()) if hasattr(a, "suffix"))
            if not when(path):
                return write(*args, **kwargs)
            path.write_bytes(b"half")
            raise OSError(*FULL)

        monkeypatch.setattr(owner, name, half)

    return fill


def sample(run, *options):
    return ("sample", run, "--kind", "prior", "--count", 4, *options)


@pytest.mark.parametrize(
    "writer", [(np, "save"), (Figure, "savefig")], ids=["array", "picture"]
)
def test_a_picture_and_its_array_are_both_new_or_both_old(call, run, full, writer):
    for options in ((), ("--seed", 1)):
        before = contents(run / "samples") if options else {}
        if options:
            full(*writer)
            said = call(*sample(run, *options))
            assert said.code == 2
            mentions(said.err, "samples/prior.", "No space left on device")
            assert len(said.err.splitlines()) == 1
            assert contents(run / "samples") == before
        else:
            assert call(*sample(run)).code == 0
    assert len(before) == 2


@pytest.mark.parametrize("ending", ["png", "npy"])
def test_a_picture_without_a_place_changes_nothing(call, run, ending):
    assert call(*sample(run)).code == 0
    place = run / "samples" / f"prior.{ending}"
    place.unlink()
    place.mkdir()
    before = contents(run)
    said = call(*sample(run, "--seed", 1))
    assert said.code == 2
    mentions(said.err, str(place))
    assert contents(run) == before


def test_what_cannot_be_drawn_is_refused_before_anything_is(
    call, train, refused, tmp_path
):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).random((40, 4)))
    options = (
        "--dataset",
        tmp_path / "few.npy",
        "--epochs",
        1,
        "--likelihood",
        "gaussian",
    )
    run = train("run", *options, "--test-fraction", 0.02, "--validation-fraction", 0)
    both = ("--kind", "prior", "--kind", "interpolation")
    mentions(
        refused("sample", run, *both),
        "interpolation needs two data",
        "test split has 1",
    )
    words = ("no validation data", "--kind prior needs no data")
    mentions(refused("sample", run, "--split", "validation"), *words)
    said = call("sample", run)  # all that there is
    assert (said.code, said.err) == (0, "")
    drawn = {p.stem for p in (run / "samples").iterdir()}
    assert {"prior", "reconstructions", "traversal"} <= drawn
    assert "interpolation" not in drawn


TABLES = {"--csv": "to_csv", "--parquet": "to_parquet"}


@pytest.mark.parametrize("lost", TABLES)
def test_a_table_that_cannot_be_written_costs_nothing_else(
    call, run, tmp_path, full, lost
):
    full(pandas.DataFrame, TABLES[lost])
    paths = {option: tmp_path / f"x{option[1:]}" for option in TABLES}
    options = [word for pair in paths.items() for word in pair]
    said = call("evaluate", run, *QUICK, *options, "--report")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    mentions(
        said.err,
        "is done and written to",
        f"but not written: {paths[lost]} (No space left",
    )
    assert [option for option, path in paths.items() if not path.exists()] == [lost]
    s = json.loads(newest(run).read_text())
    assert len(s["figures"]) == len(list(run.glob("figures/evaluation*/*.png"))) > 0
    mentions(said.out, "written: ", "report")
    assert newest(run, "report*.html").is_file()
    said = call("encode", run, *options)
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    mentions(
        said.err,
        "the latents are written to",
        f"not written: {paths[lost]} (No space left",
    )
    assert not paths[lost].exists()
    assert (run / "figures/latents.png").is_file()


def test_the_numbers_of_new_data_and_their_table_are_all_new_or_all_old(
    call, run, tmp_path, full
):
    np.save(tmp_path / "new.npy", np.random.default_rng(0).integers(0, 17, (5, 8, 8)))
    options = ("evaluate", run, "--data", tmp_path / "new.npy", "--num-particles")
    assert call(*options, 20).code == 0
    stem = newest(run, "evaluation-new*.json").with_suffix("")
    with stem.with_suffix(".json").open("a") as file:
        file.write("\n")  # so that the old files differ from new ones
    before = contents(run)
    full(pandas.DataFrame, "to_csv")
    said = call(*options, 20)
    assert said.code == 2
    mentions(said.err, f"{stem}.csv: No space left on device")
    assert contents(run) == before


def test_a_page_that_cannot_be_made_costs_no_numbers(call, run, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(*FULL)

    monkeypatch.setattr("pyro_vae.report.report", fail)
    said = call("evaluate", run, *QUICK, "--report")
    assert said.code == 2
    mentions(
        said.err, "is done and written to", "report-test-limit6-k20.html (No space left"
    )
    assert json.loads(newest(run).read_text())["figures"]
    assert list(run.glob("report*")) == []


def test_figures_without_a_folder_cost_no_numbers(call, run):
    shutil.rmtree(run / "figures")
    (run / "figures").write_text("a file")
    for program, *options in (("evaluate", *QUICK), ("encode",)):
        said = call(program, run, *options)
        assert said.code == 2
        mentions(said.err, "written to", "but not drawn: figures (File exists)")
    assert json.loads(newest(run).read_text())["figures"] == []
    assert (run / "latents.npz").is_file()


def test_a_run_that_cannot_be_written_to_is_refused_before_the_work(
    refused, run, tmp_path, monkeypatch
):
    def begin(*args, **kwargs):
        raise AssertionError("the work has begun")

    def read_only(folder):
        raise OSError(errno.EROFS, "Read-only file system", str(folder / files.MARK))

    monkeypatch.setattr(Weighting, "ask", begin)
    monkeypatch.setattr("pyro_vae.encode.encode_run", begin)
    monkeypatch.setattr("pyro_vae.sample.draw", begin)
    monkeypatch.setattr(files, "_new", read_only)
    output = tmp_path / "samples"
    output.mkdir()
    for program, *options in (
        ("evaluate",),
        ("encode",),
        ("sample", "--output", output),
    ):
        mentions(refused(program, run, *options), "Read-only file system")
    for option in ("--csv", "--netcdf"):
        path = tmp_path / "x.csv"
        sentence = refused("evaluate", run, option, path)
        mentions(sentence, f"{option} {path}: Read-only file system")
