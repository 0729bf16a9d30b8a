"""Whatever is wrong with the input: exit code 2, one sentence that says what, and nothing lost."""

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reading import mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

GAUSSIAN = ("--likelihood", "gaussian")
BERNOULLI = ("--likelihood", "bernoulli")
TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)
rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (30, 4, 4)).astype(np.uint8)
REAL = rng.normal(size=(30, 4))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        # names of members, with the nearest one
        ("--guide", "meanfeild", ["meanfeild", "did you mean meanfield?"]),
        ("--prior", "standardnorm", ["did you mean standardnormal?"]),
        ("--likelihood", "bernouli", ["did you mean bernoulli?"]),
        ("--network", "mpl", ["did you mean mlp?"]),
        ("--objective", "elob", ["elob", "iwae", "did you mean elbo"]),
        ("--optimizer", "adm", ["did you mean adam?"]),
        ("--schedule", "cosin", ["did you mean cosine?"]),
        # arguments of members
        (
            "--objective",
            "iwae(num_partcles=3)",
            ["num_partcles", "did you mean num_particles?"],
        ),
        ("--optimizer", "sgd(momentun=0.9)", ["did you mean momentum?"]),
        ("--schedule", "cosine(flor=0.1)", ["did you mean floor?"]),
        ("--guide", "delta(rank=3)", ["rank", "it takes none"]),
        ("--guide", "meanfield(latent_dim=3)", ["latent_dim"]),
        # the grammar
        ("--likelihood", "gaussian(1.0)", ["by name", "gaussian(key=value)"]),
        ("--network", "mlp(**{'hidden': (3,)})", ["by name"]),
        ("--guide", "fullrank(", ["fullrank(", "name(key=value"]),
        ("--guide", "", ["--guide", "name(key=value"]),
        (
            "--guide",
            "__import__('os').system('touch hacked')",
            ["--guide", "plain values"],
        ),
        (
            "--network",
            "mlp(hidden=__import__('os').system('touch hacked'))",
            ["--network", "plain values"],
        ),
        ("--network", "mlp(hidden=(open('hacked', 'w'),))", ["plain values"]),
        # words without quotes
        ("--likelihood", "gaussian(scale=netwrk)", ["scale='netwrk'", "'network'?"]),
        ("--network", "mlp(hidden=(many, 3))", ["hidden=('many', 3)"]),
        ("--guide", "meanfield(scale=network)", ["has no argument scale"]),
        ("--guide", "meanfield(log_variance=os.name)", ["plain values"]),
        ("--guide", "meanfield(log_variance=-wide)", ["plain values"]),
        ("--likelihood", "gaussian(scale=network())", ["plain values"]),
        ("--objective", "elbo(beta=large)", ["beta='large'", "number"]),
        (
            "--objective",
            "pyro.infer:Trace_ELBO(vectorize_particles=false)",
            ["vectorize_particles=false", "in quotes"],
        ),
        ("--schedule", "cosine(floor=low)", ["floor='low'"]),
        ("--optimizer", "sgd(momentum=big)", ["momentum='big'"]),
        # values of arguments
        ("--likelihood", "gaussian(scale=-1)", ["scale=-1", "positive"]),
        ("--likelihood", "gaussian(scale='learnt')", ["'learnt'", "'learned'"]),
        ("--likelihood", "gaussian(scale=None)", ["scale=None"]),
        ("--likelihood", "gaussian(min_scale=0)", ["min_scale=0"]),
        ("--objective", "elbo(beta=-1)", ["beta=-1"]),
        ("--objective", "elbo(beta='a')", ["beta='a'"]),
        ("--objective", "iwae(num_particles=0)", ["num_particles=0"]),
        ("--objective", "iwae(num_particles=2.5)", ["num_particles=2.5"]),
        ("--objective", "pyro.infer:Trace_ELBO(num_particles=0)", ["num_particles=0"]),
        (
            "--objective",
            "pyro.infer:Trace_ELBO(num_particles='a')",
            ["num_particles='a'"],
        ),
        ("--network", "mlp(hidden=(0,))", ["hidden=(0,)"]),
        ("--network", "mlp(hidden='a')", ["hidden", "'a'"]),
        ("--network", "mlp(hidden=None)", ["hidden=None"]),
        ("--network", "mlp(dropout=1)", ["dropout=1"]),
        ("--network", "mlp(dropout='a')", ["dropout='a'"]),
        ("--network", "mlp(activation='rellu')", ["'rellu'", "relu"]),
        ("--network", "convnet(channels=())", ["at least one layer"]),
        ("--optimizer", "sgd(momentum=-1)", ["momentum"]),
        ("--schedule", "step(at=(0.5,),factors=(1,2))", ["step"]),
        # classes of one's own
        ("--network", "nosuch.module:Net", ["nosuch", "imported"]),
        ("--guide", "pyro_vae.networks:MLP", ["not a finished subclass of Guide"]),
        (
            "--guide",
            "pyro_vae.models.conditionals:Guide",
            ["not a finished subclass of Guide"],
        ),
        ("--objective", "pyro.infer:Trace_ELBOW", ["Trace_ELBOW"]),
        # plain options
        ("--latent-dims", "3", ["--latent-dims", "did you mean --latent-dim?"]),
        ("--latent-dim", "0", ["--latent-dim", "at least 1"]),
        ("--latent-dim", "2.5", ["--latent-dim", "2.5"]),
        ("--epochs", "0", ["--epochs", "at least 1"]),
        ("--batch-size", "0", ["--batch-size", "at least 1"]),
        ("--learning-rate", "nan", ["--learning-rate nan"]),
        ("--learning-rate", "-1", ["--learning-rate -1", "positive"]),
        ("--learning-rate", "inf", ["--learning-rate inf"]),
        ("--seed", "-1", ["--seed -1"]),
        ("--device", "gpu", ["--device gpu", "auto, cpu, cuda, mps"]),
        ("--precision", "float16", ["float16", "float64"]),
        ("--binarize", "half", ["half", "threshold"]),
        ("--log", "neptune", ["neptune", "tensorboard"]),
        ("--validation-fraction", "1", ["--validation-fraction", "[0, 1)"]),
        ("--test-fraction", "-0.1", ["--test-fraction", "[0, 1)"]),
        ("--test-fraction", "nan", ["--test-fraction nan"]),
        ("--labels", "x", ["--labels", "digits"]),
        ("--dataset", "digit", ["digit", "did you mean digits?"]),
        ("--dataset", "none.npy", ["none.npy", "does not exist"]),
        ("--config", "none.toml", ["none.toml", "does not exist"]),
        ("--resume", "none", ["none"]),
    ],
)
def test_options(refused, tmp_path, option, value, words):
    mentions(refused("train", f"{option}={value}", "--output", "run"), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "device", [d for d in ("cuda", "mps") if not getattr(torch, d).is_available()]
)
def test_device_that_is_not_there(refused, device):
    mentions(
        refused("train", "--device", device), f"--device {device}", "not available"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latent-dims = 3", ["latent-dims", "did you mean latent"]),
        ("latent_dim = '3'", ["latent_dim", "whole number"]),
        ("latent_dim = 3.5", ["latent_dim", "whole number"]),
        ("latent_dim = true", ["latent_dim", "whole number"]),
        ("learning_rate = 'fast'", ["learning_rate", "a number"]),
        ("scale = 1", ["scale", "true or false"]),
        ("guide = 3", ["guide", "text in quotes"]),
        ("guide = 'meanfeild'", ["did you mean meanfield?"]),
        ("binarize = 'half'", ["half", "threshold"]),
        ("epochs = ", ["c.toml", "not valid TOML"]),
        ("[train]\nepochs = 3", ["unknown option train"]),
        ("\udcff", ["c.toml", "not valid TOML"]),
    ],
)
def test_config_files(refused, tmp_path, text, words):
    (tmp_path / "c.toml").write_text(text, errors="surrogateescape")
    mentions(refused("train", "--config", "c.toml"), *words)


def with_value(value, at=(7, 1)):
    x = REAL.copy()
    x[at] = value
    return x


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (with_value(np.nan), ["datum 7"]),
        (with_value(np.inf), ["datum 7"]),
        (REAL[:, 0], ["(30,)"]),
        (np.array(3.0), ["shape ()"]),
        (np.array([["a", "b"]] * 9), ["not numbers"]),
        (REAL + 1j, ["complex128"]),
        (np.full((30, 4), 2**64 - 1, dtype=np.uint64), ["x.npy", "uint64"]),
        (REAL[:1], ["1 datum, too few"]),
        (REAL[:0], ["no data"]),
        (REAL[:, :0], ["x.npy", "shape"]),
    ],
)
def test_arrays(refused, tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    mentions(refused("train", "--dataset", "x.npy", *GAUSSIAN), "x.npy", *words)


def test_object_arrays_are_not_unpickled(refused, tmp_path):
    np.save(
        tmp_path / "x.npy",
        np.array([[1, "b"], [None, 3]], dtype=object),
        allow_pickle=True,
    )
    mentions(refused("train", "--dataset", "x.npy"), "x.npy", "bject")


def an_npy():
    np.save("x.npy", REAL)
    return Path("x.npy").read_bytes()


def an_npz():
    np.savez("x.npz", x=GREY)
    return Path("x.npz").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.npy", lambda: b"", ["empty"]),
        ("x.npy", lambda: b"hello", ["x.npy is not a .npy file"]),
        ("x.npy", lambda: an_npy()[:200], ["x.npy is not a .npy file"]),
        ("x.npz", lambda: b"", ["empty"]),
        ("x.npz", lambda: an_npz()[:300], ["x.npz is not a .npz file"]),
        (
            "x.npz",
            lambda: an_npz().replace(GREY.tobytes(), GREY[::-1].tobytes()),
            ["not a .npz file"],
        ),  # the checksum is wrong
        ("x.csv", lambda: b"", ["empty"]),
        ("x.csv", lambda: b"a,b\n", ["no rows"]),
        ("x.csv", lambda: b"a,b\n1.5,2\n1,nan\n1,3\n1,4\n", ["'b'", "row 1"]),
        ("x.csv", lambda: b"a,b\n1.5,2\n1,\n1,3\n1,4\n", ["'b'", "row 1"]),
        ("x.csv", lambda: b"a,b\n1.5,2\n1,inf\n1,3\n1,4\n", ["datum 1"]),
        ("x.csv", lambda: b"1,2\n1,2,3\n", ["table"]),
        ("x.csv", lambda: b"a,b\n1,x\n2,y\n", ["'b'", "--labels"]),
        ("x.csv", lambda: bytes(range(256)), ["table"]),
        ("x.txt", lambda: b"1 2 3", ["1 datum, too few"]),
        ("x.xlsx", lambda: b"1 2 3", ["a spreadsheet", ".csv"]),
        ("x.odd", lambda: b"1 2 3", [".npy, .npz or .csv"]),
    ],
)
def test_files(refused, tmp_path, name, content, words):
    data = content()
    (tmp_path / name).write_bytes(data)
    mentions(refused("train", "--dataset", name, *GAUSSIAN), name, *words)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"a": GREY, "b": GREY}, [], ["a, b"]),
        ({"x": GREY, "labels": np.arange(29)}, [], ["30", "29 labels"]),
        ({"x": GREY, "labels": np.array(3)}, [], ["labels"]),
        ({"x": GREY, "labels": np.zeros((30, 2))}, [], ["labels"]),
        ({"x": GREY}, ["--labels", "kind"], ["kind"]),
        ({"train": GREY, "test": GREY[:, :3]}, [], ["one shape"]),
        ({"train": GREY, "test": GREY}, ["--labels", "kind"], ["train_kind"]),
        (
            {"train": GREY, "test": GREY},
            ["--test-fraction", 0.1],
            ["its own test data", "--test-fraction"],
        ),
        (
            {"train": GREY, "validation": GREY},
            ["--validation-fraction", 0.1],
            ["its own validation data"],
        ),
    ],
)
def test_archives(refused, arrays, options, words):
    np.savez("x.npz", **arrays)
    mentions(
        refused("train", "--dataset", "x.npz", "--binarize", "static", *TINY, *options),
        "x.npz",
        *words,
    )


def test_missing_label_column(refused, tmp_path):
    (tmp_path / "x.csv").write_text("a,kind\n" + "0.5,1\n0.25,2\n" * 9)
    mentions(
        refused("train", "--dataset", "x.csv", "--labels", "kinds"), "kinds", "x.csv"
    )


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i:02}.png")
    return tmp_path / "pictures"


def test_pictures_of_different_sizes(refused, pictures):
    Image.fromarray(GREY[0, :3]).save(pictures / "17.png")
    mentions(
        refused("train", "--dataset", "pictures"), "17.png", "3 x 4", "00.png", "4 x 4"
    )


@pytest.mark.parametrize("damage", ["no picture", "cut off", "a wrong length"])
def test_damaged_picture(refused, pictures, damage):
    path = pictures / "17.png"
    png = path.read_bytes()
    chunk = png.index(b"IDAT") - 4
    damaged = {
        "no picture": b"hello",
        "cut off": png[:50],
        "a wrong length": png[:chunk] + b"\0\0\0\1" + png[chunk + 4 :],
    }
    path.write_bytes(damaged[damage])
    mentions(
        refused("train", "--dataset", "pictures", "--binarize", "static"), "17.png"
    )


def test_folder_without_pictures(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    mentions(refused("train", "--dataset", "empty"), "empty", "no images")


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (
            GREY,
            BERNOULLI,
            [
                "grey levels",
                "--binarize dynamic",
                "--binarize static",
                "--binarize threshold",
            ],
        ),
        (GREY, GAUSSIAN, ["--dequantize", "--scale"]),
        (GREY, [*GAUSSIAN, "--binarize", "dynamic"], ["bits", "Gaussian"]),
        (GREY, ["--binarize", "static", "--scale"], ["choose one"]),
        (REAL, BERNOULLI, ["reals", "Bernoulli"]),
        (GREY, ["--maximum", 100], ["the value", "above --maximum 100"]),
        (GREY, ["--maximum", 0], ["--maximum 0", "at least 1"]),
        (REAL, ["--maximum", 4], ["--maximum 4", "whole numbers", "reals"]),
        (REAL, ["--binarize", "threshold"], ["reals", "--binarize"]),
        (REAL, [*GAUSSIAN, "--scale"], ["reals", "--scale"]),
        (np.abs(REAL) % 1, [*GAUSSIAN, "--dequantize"], ["--dequantize"]),
        (REAL, [*GAUSSIAN, "--network", "convnet"], ["images", "(4,)"]),
        (REAL[:5], [*GAUSSIAN, "--test-fraction", 0.9], ["too few"]),
    ],
)
def test_data_that_the_model_does_not_accept(refused, array, options, words):
    np.save("x.npy", array)
    mentions(refused("train", "--dataset", "x.npy", *options), *words)


@pytest.mark.parametrize("name", ["mnist", "omniglot", "binarized-mnist", "freyfaces"])
def test_data_set_without_files_and_network(refused, tmp_path, monkeypatch, name):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
    sentence = refused("train", "--dataset", name, "--data-dir", "elsewhere")
    mentions(
        sentence,
        f"{name} needs the file",
        "elsewhere",
        str(tmp_path / "cache"),
        "--dataset digits",
    )
    assert ":)" not in sentence


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_data_of_any_scale_end_in_a_run_or_a_sentence(call, scale):
    np.save("x.npy", np.random.default_rng(0).normal(size=(300, 4, 4)) * scale)
    said = call(
        "train", "--dataset", "x.npy", *GAUSSIAN, "--epochs", 1, "--output", "run"
    )
    assert said.code in (0, 2)
    if said.code == 2:
        assert len(said.err.splitlines()) == 1
        mentions(said.err, "step 1", "site", "scale of the data")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--guide", "delta", "--objective", "iwae"), ("IWAE", "a point")),
        (
            ("--prior", "flow", "--objective", "meanfieldelbo"),
            ("MeanFieldELBO", "closed form", "Pushforward"),
        ),
        (("--prior", "vampprior", "--guide", "iaf"), ("VampPrior", "IAF")),
        (
            (
                "--prior",
                "vampprior(pseudo_inputs=10000)",
            ),
            ("pseudo_inputs=", "or fewer"),
        ),
        (
            ("--objective", "annealed(epochs=3)", "--epochs", 2),
            ("warm-up", "3 epochs", "the run has 2"),
        ),
        (
            ("--likelihood", "zeroinflated(likelihood=bernoulli)"),
            ("likelihood=", "counts"),
        ),
    ],
)
def test_members_that_do_not_fit_together(refused, tmp_path, options, words):
    mentions(refused("train", *options, "--output", tmp_path / "run"), *words)


def test_loss_that_stops_being_finite(refused, call):
    jump = ("--optimizer", "sgd", "--schedule", "step(at=(0.5,),factors=(1e15,))")
    run = Path("run")
    made = ("config.toml", "metrics.csv", "best.safetensors", "last.safetensors")
    sentence = refused("train", *TINY, "--epochs", 4, *jump, "--output", run, made=made)
    mentions(
        sentence,
        "stopped being finite at step ",
        "site 'z'",
        "learning rate",
        "epoch 2 is kept in run",
    )
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    for tensor in load_file(run / "last.safetensors").values():
        assert not tensor.is_floating_point() or tensor.isfinite().all()
    assert call("evaluate", run, "--num-particles", 5, "--limit", 5).code == 0
