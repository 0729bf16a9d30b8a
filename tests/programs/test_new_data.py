"""Which row of the file each number is of; data that a run has not seen; the files of evaluations."""

import csv
import json
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from conftest import X
from pyro_vae import InputError, load_data, log_marginal, open_run
from pyro_vae.data.fingerprint import fingerprint
from reading import contents, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

K = ("--num-particles", 10)
NEW = np.random.default_rng(1).normal(size=(7, 4))


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


# --- rows and names


def test_each_score_names_its_row(call, here):
    assert (
        call("evaluate", "runs/a", *K, "--csv", "s.csv", "--parquet", "s.parquet").code
        == 0
    )
    with np.load("runs/a/evaluation.npz") as file:
        columns = dict(file)
    seen = open_run("runs/a").split("test")[:]
    torch.testing.assert_close(seen, torch.from_numpy(X[columns["row"]]).float())
    assert (columns["label"] == columns["row"] % 2).all()
    lines = table("s.csv")
    assert list(lines[0])[:5] == [
        "row",
        "split",
        "label",
        "log_px",
        "log_px_standard_error",
    ]
    assert [int(line["row"]) for line in lines] == columns["row"].tolist()
    np.testing.assert_allclose(
        [float(line["log_px"]) for line in lines], columns["values"]
    )
    import pandas

    pandas.testing.assert_frame_equal(
        pandas.read_parquet("s.parquet"), pandas.read_csv("s.csv")
    )


def test_each_latent_names_its_row(call, here):
    assert call("encode", "runs/a", "--csv", "z.csv").code == 0
    with np.load("runs/a/latents.npz") as file:
        rows = [file[f"{split}_rows"] for split in ("train", "validation", "test")]
    assert sorted(np.concatenate(rows).tolist()) == list(range(60))
    lines = table("z.csv")
    assert [int(line["row"]) for line in lines] == np.concatenate(rows).tolist()
    assert {line["split"] for line in lines} == {"train", "validation", "test"}


def test_files_are_named(call, train, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (30, 5, 4)).astype(np.uint8)
    for i, image in enumerate(grey):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    options = (
        "--binarize",
        "threshold",
        "--epochs",
        1,
        "--network",
        "mlp(hidden=(8,))",
    )
    run = train("run", "--dataset", "pictures", *options, "--latent-dim", 2)
    assert call("evaluate", run, *K, "--report").code == 0
    with np.load(run / "evaluation.npz") as file:
        names, rows = file["name"].tolist(), file["row"]
    seen = open_run(run).split("test")[:]
    for name, x in zip(names, seen, strict=True):
        assert torch.equal(
            x, torch.from_numpy(grey[int(Path(name).stem)] > 127.5).float()
        )
    assert len(set(rows.tolist())) == len(names) == 6
    mentions((run / "report.html").read_text(), "row of the file", *names)


# --- new data


def but_for_the_card(files):
    """Files by their paths, without those that list all evaluations."""
    return {path: text for path, text in files.items() if path.name != "README.md"}


@pytest.mark.parametrize("count", [7, 1])
def test_all_rows_of_new_data_are_scored(call, here, count):
    np.save("new.npy", NEW[:count])
    before = but_for_the_card(contents(here / "runs"))
    said = call("evaluate", "runs/a", *K, "--data", "new.npy", "--report")
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        f"new data: {count} of new.npy; none of them is a row that the run was",
    )
    after = contents(here / "runs")
    assert before.items() <= after.items()  # the headline and its page
    lines = table("runs/a/evaluation-new-new-k10.csv")
    assert [int(line["row"]) for line in lines] == list(range(count))
    run = open_run("runs/a")
    x = run.see(NEW[:count])
    torch.testing.assert_close(x, torch.from_numpy(NEW[:count]).float())
    pyro.set_rng_seed(0)
    values = log_marginal(
        run.vae.model, run.vae.guide, x, num_particles=10, memory=2**28
    ).values
    np.testing.assert_allclose(
        [float(line["log_px"]) for line in lines], values.numpy()
    )

    assert call("encode", "runs/a", "--data", "new.npy").code == 0
    with np.load("runs/a/latents-new-new.npz") as file:
        mean = run.vae.encode(x).mean.detach()
        torch.testing.assert_close(torch.from_numpy(file["new_mean"]), mean)
        assert file["new_rows"].tolist() == list(range(count))


def test_rows_that_were_trained_on_are_counted(call, here):
    data = load_data("data.npy")
    trained = int((data.rows["train"] < 20).sum())
    np.save("mixed.npy", np.vstack([X[:20], NEW]))
    mentions(
        call("evaluate", "runs/a", *K, "--data", "mixed.npy").out,
        f"new data: 27 of mixed.npy; {trained} of them are rows that the run was trained on",
    )
    Path("data.npy").unlink()
    mentions(
        call("evaluate", "runs/a", *K, "--data", "mixed.npy").out,
        "is not known",
        "are not here",
    )


def test_labels_of_new_data(call, refused, here):
    np.save("new.npy", NEW)
    Path("kinds.txt").write_text("\n".join("abcabca"))
    options = ("--data", "new.npy", "--labels", "kinds.txt")
    assert call("evaluate", "runs/a", *K, *options, "--csv", "s.csv").code == 0
    assert [line["label"] for line in table("s.csv")] == list("abcabca")
    assert call("encode", "runs/a", *options, "--csv", "z.csv").code == 0
    assert [line["label"] for line in table("z.csv")] == list("abcabca")
    mentions(refused("evaluate", "runs/a", *options[2:]), "--labels", "--data")


def test_archives_with_splits_are_new_data_as_a_whole(call, here):
    np.savez("new.npz", train=NEW[:4], test=NEW[4:])
    assert call("evaluate", "runs/a", *K, "--data", "new.npz").code == 0
    lines = table("runs/a/evaluation-new-new-k10.csv")
    assert [line["name"] for line in lines] == [
        *(f"train {i}" for i in range(4)),
        *(f"test {i}" for i in range(3)),
    ]


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (NEW[:, :3], [], ["new.npy has data of shape (3,)", "trained on (4,)"]),
        (X[np.argsort(X[:, 0])], [], ["the same rows in another order"]),
        (NEW.astype(str), [], ["new.npy holds", "not numbers"]),
        (NEW, ["--csv", "none/s.csv"], ["--csv none/s.csv", "none does not exist"]),
        (NEW, ["--csv", "runs/a/metrics.csv"], ["take the place of a file of the run"]),
    ],
)
def test_new_data_that_cannot_be_taken(refused, here, values, options, words):
    np.save("new.npy", values)
    for program in ("evaluate", "encode"):
        mentions(refused(program, "runs/a", "--data", "new.npy", *options), *words)


def test_columns_keep_their_names_and_order(call, refused, train):
    def write(name, columns, values):
        lines = [",".join(f"{v:.4f}" for v in row) for row in values]
        Path(name).write_text("\n".join([",".join(columns), *lines]))

    write("x.csv", ("mass", "length", "age"), X[:, :3])
    write("new.csv", ("mass", "length", "age"), NEW[:, :3])
    write("other.csv", ("length", "mass", "age"), NEW[:, :3])
    write("one.csv", ("mass", "length", "age"), [(0.5, 0.25, 0.5)])
    Path("empty.csv").write_text("mass,length,age\n1.5,,2.5\n2.5,,1.5\n")
    Path("hole.csv").write_text("mass,length,age\n1.5,,2.5\n2.5,1.5,1.5\n")
    Path("wild.csv").write_text("mass,length,age\n1.5,inf,2.5\n2.5,1.5,1.5\n")
    options = (
        "--likelihood",
        "gaussian",
        "--network",
        "mlp(hidden=(8,))",
        "--latent-dim",
        2,
    )
    train("run", "--dataset", "x.csv", *options, "--epochs", 1)
    assert call("evaluate", "run", *K, "--data", "new.csv").code == 0
    sentence = refused("evaluate", "run", *K, "--data", "other.csv")
    mentions(sentence, "'length'", "'mass'", "mass, length, age")

    # What values are is the run's to say, and it has no columns to leave out.
    said = call("evaluate", "run", *K, "--data", "one.csv")
    assert (said.code, "taken for the bits" in said.out + said.err) == (0, False)
    for name in ("empty", "hole", "wild"):
        sentence = refused("evaluate", "run", *K, "--data", f"{name}.csv")
        mentions(sentence, "column 'length'", f"{name}.csv has")
        assert "--drop" not in sentence


def test_new_data_have_no_splits(refused, here):
    np.save("new.npy", NEW)
    sentence = refused("evaluate", "runs/a", "--data", "new.npy", "--split", "test")
    mentions(sentence, "new.npy is new to the run", "--split test")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (X[0], ["one datum", "(1, 4)", "values[None]"]),
        (X[:, :3], ["(3,)", "(4,)"]),
        (X[0, 0], ["no batch", "(4,)"]),
        ([["a"] * 4], ["not numbers"]),
        (np.full((1, 4), np.nan), ["missing or infinite"]),
    ],
)
def test_values_that_a_run_cannot_see(here, values, words):
    with pytest.raises(InputError) as error:
        open_run("runs/a").see(values)
    mentions(str(error.value), *words)


def test_bytes_become_the_bits_of_the_run(trained):
    run = open_run(trained)
    white = run.see(np.full((1, 8, 8), 16, np.uint8))
    half = run.see(np.tile(np.array([0, 8], np.uint8), (200, 8, 4)))
    assert torch.equal(white, torch.ones(1, 8, 8))
    assert torch.equal(run.see(np.zeros((1, 8, 8), np.uint8)), torch.zeros(1, 8, 8))
    assert half[..., ::2].sum() == 0
    assert half[..., 1::2].mean().item() == pytest.approx(0.5, abs=0.03)  # 6400 bits
    assert torch.equal(
        run.see(torch.ones(2, 8, 8)), torch.ones(2, 8, 8)
    )  # bits as they are
    sixteenths = np.arange(64).reshape(1, 8, 8) % 17 / 16
    for values, words in (
        (np.full((1, 8, 8), 17), "up to 17"),
        (np.random.default_rng(0).uniform(size=(5, 8, 8)), "reals"),
        (sixteenths, "one scale|reals"),
    ):
        with pytest.raises(InputError, match=words):
            run.see(values)


# --- the files of evaluations


def stems(folder):
    return sorted(p.stem for p in folder.glob("evaluation*.json"))


def test_a_lesser_evaluation_leaves_the_headline(call, here):
    run = here / "runs" / "a"
    before = but_for_the_card(contents(run))
    for options in (
        ("--limit", 5),
        ("--num-particles", 5),
        ("--seed", 1),
        ("--checkpoint", "last"),
    ):
        said = call("evaluate", run, *K, *options)
        assert said.code == 0
        mentions(said.out, "kept:", "evaluation.json")
    after = contents(run)
    assert before.items() <= after.items()
    assert stems(run) == [
        "evaluation",
        "evaluation-test-k10-last",
        "evaluation-test-k10-seed1",
        "evaluation-test-k5",
        "evaluation-test-limit5-k10",
    ]
    figures = json.loads((run / "evaluation-test-k5.json").read_text())["figures"]
    assert figures[0].startswith("figures/evaluation-test-k5/")
    assert all((run / name).is_file() for name in figures)


def test_a_better_evaluation_becomes_the_headline(call, here):
    run = here / "runs" / "a"

    def told(*options):
        assert call("evaluate", run, *options).code == 0
        return json.loads((run / "evaluation.json").read_text())

    assert told("--num-particles", 20)["num_particles"] == 20
    assert "gaps" in told("--num-particles", 20, "--gaps")
    assert "gaps" in told("--num-particles", 20)  # holds less
    assert told("--num-particles", 20, "--gaps", "--seed", 3)["seed"] == 0
    assert call("train", "--resume", run, "--epochs", 9).code == 0
    assert told("--num-particles", 5)["num_particles"] == 5  # of other weights


def test_comparing_one_evaluation_with_another(call, refused, here):
    assert call("evaluate", "runs/a", "--num-particles", 5).code == 0
    assert call("evaluate", "runs/a", *K, "--limit", 5).code == 0
    said = call("compare", "runs/a", "runs/a/evaluation-test-k5.json")
    assert said.code == 0
    mentions(said.out, "read: runs/a/evaluation.json, runs/a/evaluation-test-k5.json")
    limited = "runs/a/evaluation-test-limit5-k10.json"
    mentions(refused("compare", "runs/a", limited), "12 test data", "on 5", "--limit")
    mentions(
        refused("compare", "runs/a", "runs/a/none.json"), "none.json does not exist"
    )
    mentions(refused("compare", "runs/a", "runs/a/metrics.json"), "does not exist")


def test_the_fingerprint_of_a_run_is_that_of_its_data(here):
    run = open_run("runs/a")
    assert run.config["resolved"]["fingerprint"] == fingerprint(run.data)
