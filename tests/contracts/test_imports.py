"""Who imports whom: arrows only point down, and importing the package does nothing."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae import _config, variants
from pyro_vae._cli.options import evaluate_parser
from pyro_vae.data import NAMED
from pyro_vae.engine.affine import PRODUCTS
from pyro_vae.engine.memory import MEMORY
from pyro_vae.foundation.source import FAMILIES, summaries
from pyro_vae.inference.optimizers import OPTIMIZERS
from pyro_vae.inference.schedules import SCHEDULES
from pyro_vae.spec import FAMILIES as KNOWN
from pyro_vae.spec import FITTED

PACKAGE = Path(pyro_vae.__file__).parent
ROOMS = [  # from the ground up: a module imports from its own room and from those before it
    {"foundation"},
    {"engine"},
    {"networks", "distributions"},
    {"data"},
    {"models"},
    {"inference"},
    {"plots"},
    {"evaluation"},
    {"modules"},  # of the package itself: spec, runs ...
    {"report"},
    {"explorer"},
    {"_cli"},
    {"programs"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def room_of(path: Path) -> str:
    """The folder of a module; one that lies in none is a program, which can be run, or a plain module."""
    folders = path.relative_to(PACKAGE).parts[:-1]
    if folders:
        return folders[0]
    return "programs" if 'if __name__ == "__main__":' in path.read_text() else "modules"


def imports(path: Path) -> set[Path]:
    """The modules of this package that a file imports, anywhere in it."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.ImportFrom) and node.module):
            continue
        for place in [
            node.module,
            *(f"{node.module}.{alias.name}" for alias in node.names),
        ]:
            package, *parts = place.split(".")
            if package == "pyro_vae" and parts:
                module = PACKAGE.joinpath(*parts).with_suffix(".py")
                folder = PACKAGE.joinpath(*parts, "__init__.py")
                files |= {file for file in (module, folder) if file.is_file()}
    return files


def test_imports_point_down():
    for path in sorted(PACKAGE.rglob("*.py")):
        for other in imports(path):
            assert LEVEL[room_of(other)] <= LEVEL[room_of(path)], (
                f"{path} imports {other}"
            )


def test_every_room_is_used_by_one_above():
    """A room that no import leads to would make the test above hold of nothing."""
    entered = {
        room_of(other) for path in PACKAGE.rglob("*.py") for other in imports(path)
    }
    assert entered == LEVEL.keys() - {"programs"}


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
    assert len(set(pyro_vae.__all__)) == len(pyro_vae.__all__) < 65
    assert {"VAE", "__version__"} <= set(dir(pyro_vae))
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name).__doc__, name


@pytest.mark.parametrize("axis", ["guide", "likelihood", "objective", "prior"])
def test_families_are_modules(axis):
    """`from pyro_vae.likelihoods import Laplace`, every member of a family, and `pyro_vae.likelihoods.Laplace`."""
    module = importlib.import_module(f"pyro_vae.{axis}s")
    assert module is getattr(pyro_vae, f"{axis}s")
    for name, member in variants(KNOWN[axis][0]).items():
        assert getattr(module, name) is member
        assert name in module.__all__


def test_names_and_modules_that_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Vae'"):
        pyro_vae.Vae  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Vae'"):
        from pyro_vae import Vae  # noqa: F401


def in_a_new_process(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_name_is_imported_when_it_is_used():
    in_a_new_process(
        "import pickle, sys, pyro_vae\n"
        "assert not {'torch', 'pyro', 'numpy'} & set(sys.modules)\n"
        "from pyro_vae.spec import parse\n"  # the module has the name of the public function
        "from pyro_vae import build, MeanField\n"
        "assert build is pyro_vae.build and build.__name__ == 'build' and callable(build)\n"
        "assert pyro_vae.networks.ACTIVATIONS and pyro_vae.priors.Laplace is not pyro_vae.likelihoods.Laplace\n"
        "assert pickle.loads(pickle.dumps(MeanField)) is pyro_vae.MeanField\n"
        "from pyro_vae import *\n"
        "assert VAE is pyro_vae.VAE and callable(build)\n"
    )


@pytest.mark.parametrize(
    "program",
    ["train", "evaluate", "sample", "compare", "encode", "explore", "impute"],
)
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_a_program_answers_before_it_imports_torch(program, argument, code):
    out = in_a_new_process(
        "import runpy, sys\n"
        f"sys.argv = ['', {argument!r}]\n"
        f"try: runpy.run_module('pyro_vae.{program}', run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == {code}, end.code\n"
        "assert not {'torch', 'pyro', 'numpy'} & set(sys.modules)\n"
    )
    assert out.startswith(f"usage: python -m pyro_vae.{program}") == (
        argument == "--help"
    )


def test_choices_in_help_are_those_of_the_program():
    assert tuple(NAMED) == _config.NAMED
    assert tuple(SCHEDULES) == _config.SCHEDULES
    assert tuple(OPTIMIZERS) == _config.OPTIMIZERS
    assert PRODUCTS == _config.PRODUCTS
    assert tuple(FAMILIES) == tuple(KNOWN)
    assert evaluate_parser().get_default("memory") * 2**20 == MEMORY


@pytest.mark.parametrize("axis", KNOWN)
def test_members_in_help_are_those_of_the_program(axis):
    family, _, fixed = KNOWN[axis]
    calls = {}
    for name, cls in variants(family).items():
        arguments = list(inspect.signature(cls).parameters.values())[fixed:]
        fitted = FITTED.get(axis, ())
        defaults = [(a.name, a.default) for a in arguments if a.name not in fitted]
        texts = [
            f"{k}={v.__name__.lower() if isinstance(v, type) else repr(v)}"
            for k, v in defaults
        ]
        calls[f"{name.lower()}({', '.join(texts)})"] = inspect.getdoc(cls).partition(
            "\n"
        )[0]
    assert list(summaries(axis).items()) == list(calls.items())
