"""Who imports whom: arrows only point down, and importing the package does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
LAYERS = [  # from the ground up; a module may import from lower layers and from its own line
    ["_errors"],
    ["_abstract", "networks.base", "networks.dense", "networks.conv", "networks"],
    ["distributions.mixture", "distributions.pushforward", "distributions.zuko", "distributions"],
    ["inference.importance"],
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
        "inference.compiled",
    ],
    ["inference.svi", "inference.fit"],
    [
        "models.representation",
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
    ["data.files", "data.bridges", "data.named", "data.own", "data.sets", "data", "build", "checkpoint", "plots"],
    [
        "_program",
        "_config",
        "_display",
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
            assert not [o for o in imports(path) if o.startswith(("models", "inference.guides"))], name


def test_importing_has_no_side_effects():
    code = (
        "import pyro, torch; before = (torch.get_default_dtype(), torch.get_rng_state().sum(), pyro.settings.get());"
        "import pyro_vae, pyro_vae.train, pyro_vae.evaluate, sys;"
        "assert before == (torch.get_default_dtype(), torch.get_rng_state().sum(), pyro.settings.get());"
        "heavy = {'torchvision', 'arviz', 'sklearn', 'pandas', 'matplotlib.pyplot', 'tensorboard'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_exist_and_are_documented():
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name).__doc__, name
