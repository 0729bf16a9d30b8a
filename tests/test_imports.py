"""Who imports whom: arrows only point down, and importing the package does nothing."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae import _config, variants
from pyro_vae._optimizers import OPTIMIZERS
from pyro_vae._options import evaluate_parser
from pyro_vae._source import FAMILIES, summaries
from pyro_vae.build import AXES
from pyro_vae.data import NAMED
from pyro_vae.inference.estimators import MEMORY
from pyro_vae.inference.fit import SCHEDULES
from pyro_vae.networks.products import PRODUCTS

PACKAGE = Path(pyro_vae.__file__).parent
LAYERS = [  # from the ground up; a module may import from lower layers and from its own line
    [
        "_endings",
        "_errors",
        "_source",
        "_memory",
        "_files",
        "_reading",
        "_terminal",
        "_trust",
        "_commands",
        "checks",
    ],
    [
        "_abstract",
        "_sizes",
        "networks.base",
        "networks.products",
        "networks.dense",
        "networks.conv",
        "networks",
    ],
    [
        "distributions.counts",
        "distributions.defended",
        "distributions.mixture",
        "distributions.normal",
        "distributions.pushforward",
        "distributions.stirling",
        "distributions.student",
        "distributions.unit",
        "distributions.wide",
        "distributions.zuko",
        "distributions",
    ],
    ["inference.importance", "inference.inputs", "inference.particles"],
    [
        "inference.diagnostics",
        "inference.objectives.base",
        "inference.objectives.bounds",
        "inference.objectives.gradients",
        "inference.objectives.penalties",
        "inference.objectives.annealed",
        "inference.objectives",
        "inference.estimators",
        "inference.latents",
        "inference.annealing",
        "inference.paired",
        "inference.products",
        "inference.readings",
        "inference.bindings",
        "inference.updates",
        "inference.records",
        "inference.compiled",
        "inference.posterior",
    ],
    [
        "inference.pyro_steps",
        "inference.own_steps",
        "inference.svi",
        "inference.epochs",
        "inference.held",
        "inference.watch",
        "inference.worth",
        "inference.fit",
    ],
    [
        "models.representation",
        "data.lattice",
        "data.units",
        "data.marginals",
        "models.priors",
        "models.likelihoods.base",
        "models.likelihoods.continuous",
        "models.likelihoods.discrete",
        "models.likelihoods.counts",
        "models.likelihoods.mixture",
        "models.likelihoods",
        "models.vae",
        "inference.guides.base",
        "inference.guides.gaussian",
        "inference.guides.flows",
        "inference.guides.local",
        "inference.guides",
        "inference.refinement",
        "inference.gaps",
        "inference.adaptive",
        "inference.outliers",
    ],
    [
        "_optimizers",
        "data.files",
        "data.streams",
        "data.nature",
        "data.uniform",
        "data.bridges",
        "data.named",
        "data.labels",
        "data.text",
        "data.whole",
        "data.ground",
        "data.pixels",
        "data.foreign",
        "data.folders",
        "data.images",
        "data.columns",
        "data.tables",
        "data.sparse",
        "data.channels",
        "data.h5ad",
        "data.archives",
        "data.own",
        "data.joined",
        "data.sets",
        "data.usual",
        "data.fingerprint",
        "data",
        "build",
        "_described",
        "checkpoint",
        "_drawing",
        "_figures",
        "_grid",
        "plots",
    ],
    [
        "_options",
        "_remedies",
        "runs",
        "_program",
        "_config",
        "_display",
        "_rows",
        "_scores",
        "_evaluations",
        "_keep",
        "_outside",
        "train",
        "evaluate",
        "sample",
        "compare",
        "encode",
        "report.page",
        "report.charts",
        "report.glossary",
        "report.facts",
        "report.further",
        "report.sections",
        "report",
    ],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_vae."):
            found.add(node.module.removeprefix("pyro_vae."))
        elif isinstance(node, ast.ImportFrom) and node.module == "pyro_vae":
            found |= {a.name for a in node.names if a.name in LEVEL}
    return found


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("__init__", "models", "inference"):
            yield name, path


def test_every_module_has_its_place():
    assert {name for name, _ in modules()} == set(LEVEL)


def test_imports_point_down():
    for name, path in modules():
        for other in imports(path):
            target = "inference.fit" if other == "inference" else other
            assert LEVEL[target] <= LEVEL[name], f"{name} imports {other}, which lies above it"


def test_inference_knows_nothing_of_models_and_guides():
    below = {n for level in LAYERS[:6] for n in level}
    for name, path in modules():
        if name in below:
            assert not [o for o in imports(path) if o.startswith(("models", "inference.guides"))], (
                name
            )


def test_importing_has_no_side_effects():
    code = (
        "import pyro, torch; before = (torch.get_default_dtype(), torch.get_rng_state().sum(), pyro.settings.get());"
        "import pyro_vae, pyro_vae.train, pyro_vae.evaluate, sys;"
        "assert before == (torch.get_default_dtype(), torch.get_rng_state().sum(), pyro.settings.get());"
        "heavy = {'torchvision', 'arviz', 'sklearn', 'pandas', 'matplotlib.pyplot', 'tensorboard'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    in_a_new_process(code)


def test_public_names_exist_and_are_documented():
    assert len(set(pyro_vae.__all__)) == len(pyro_vae.__all__) > 80
    assert {"VAE", "__version__"} <= set(dir(pyro_vae))
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name).__doc__, name


def test_names_and_modules_that_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Vae'"):
        pyro_vae.Vae  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Vae'"):
        from pyro_vae import Vae  # noqa: F401


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_name_is_imported_when_it_is_used():
    in_a_new_process(
        "import pickle, sys, pyro_vae\n"
        "assert not {'torch', 'pyro', 'numpy'} & set(sys.modules)\n"
        "from pyro_vae.build import parse\n"  # the module has the name of the public function
        "from pyro_vae import build, MeanField\n"
        "assert build is pyro_vae.build and build.__name__ == 'build' and callable(build)\n"
        "assert pyro_vae.networks.ACTIVATIONS and pyro_vae.priors.Laplace is not pyro_vae.likelihoods.Laplace\n"
        "assert pickle.loads(pickle.dumps(MeanField)) is pyro_vae.MeanField\n"
        "from pyro_vae import *\n"
        "assert VAE is pyro_vae.VAE and callable(build)\n"
    )


@pytest.mark.parametrize("program", ["train", "evaluate", "sample", "compare", "encode"])
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_a_program_answers_before_it_imports_torch(program, argument, code):
    out = in_a_new_process(
        "import runpy, sys\n"
        f"sys.argv = ['', {argument!r}]\n"
        f"try: runpy.run_module('pyro_vae.{program}', run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == {code}, end.code\n"
        "assert not {'torch', 'pyro', 'numpy'} & set(sys.modules)\n"
    )
    assert out.startswith(f"usage: python -m pyro_vae.{program}") == (argument == "--help")


def test_choices_in_help_are_those_of_the_program():
    assert tuple(NAMED) == _config.NAMED
    assert tuple(SCHEDULES) == _config.SCHEDULES
    assert tuple(OPTIMIZERS) == _config.OPTIMIZERS
    assert PRODUCTS == _config.PRODUCTS
    assert tuple(FAMILIES) == tuple(AXES)
    assert evaluate_parser().get_default("memory") * 2**20 == MEMORY


@pytest.mark.parametrize("axis", AXES)
def test_members_in_help_are_those_of_the_program(axis):
    family, _, fixed = AXES[axis]
    calls = {}
    for name, cls in variants(family).items():
        arguments = list(inspect.signature(cls).parameters.values())[fixed:]
        defaults = [(a.name, a.default) for a in arguments if a.name != "features"]
        texts = [
            f"{k}={v.__name__.lower() if isinstance(v, type) else repr(v)}" for k, v in defaults
        ]
        calls[f"{name.lower()}({', '.join(texts)})"] = inspect.getdoc(cls).partition("\n")[0]
    assert list(summaries(axis).items()) == list(calls.items())
