"""What `--help` says of the members and other choices, read from the source: importing them takes seconds."""

import ast
from functools import cache
from importlib.resources import files
from typing import Any

# Each axis: its family's class, and the module or folder that holds the family.
FAMILIES = {
    "structure": ("Structure", "models/structures"),
    "prior": ("Prior", "models/priors"),
    "network": ("Network", "networks"),
    "likelihood": ("Likelihood", "models/likelihoods"),
    "guide": ("Guide", "models/conditionals"),
    "objective": ("Objective", "inference/objectives"),
    "corrupt": ("Corruption", "networks/corruptions"),
    "ask": ("Question", "evaluation"),
}


def summaries(axis: str) -> dict[str, str]:
    """The members of an axis, as calls with their defaults, with the first line of each docstring."""
    family, place = FAMILIES[axis]
    nodes = [node for node in _body(place) if isinstance(node, ast.ClassDef)]
    classes = {node.name: node for node in nodes}
    bases = {
        name: [b.id for b in node.bases if isinstance(b, ast.Name)]
        for name, node in classes.items()
    }
    above = {base for names in bases.values() for base in names}

    def line(name: str) -> list[str]:
        """The class and those of the family above it, as Python looks for a method."""
        return sum(map(line, filter(classes.get, bases[name])), [name])

    members = {}
    for name, node in sorted(classes.items()):
        if name != family and family in line(name) and name not in above:
            calls = (_arguments(classes[cls]) for cls in line(name))
            call = next((arguments for arguments in calls if arguments is not None), [])
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            members[f"{name.lower()}({', '.join(call)})"] = summary
    return members


def names(module: str, name: str) -> tuple[str, ...]:
    """The texts of a tuple, or the keys of a dictionary, that stands under `name` in a module."""
    for node in _body(module):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == name:
                value: Any = node.value
                texts = value.keys if isinstance(value, ast.Dict) else value.elts
                return tuple(map(ast.literal_eval, texts))
    raise LookupError(f"{module} has no {name}")


# Arguments, with their defaults, that follow from the rest of a pair.
FITTED = {("features", "None"), ("context", "0")}


def _arguments(cls: ast.ClassDef) -> list[str] | None:
    """The arguments of a member beside those that its family's contract fixes; `None` where it inherits them."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return [
                f"{a.arg}={_spelling(default)}"
                for a, default in pairs
                if default and (a.arg, ast.unparse(default)) not in FITTED
            ]
    return None


def _spelling(default: ast.expr) -> str:
    """A value as it is written on the command line; a class is a member."""
    return (
        default.id.lower()
        if isinstance(default, ast.Name)
        else repr(ast.literal_eval(default))
    )


@cache
def _body(place: str) -> list[ast.stmt]:
    """The statements of a module, or of all in a folder."""
    path = files("pyro_vae").joinpath(f"{place}.py")
    folder = files("pyro_vae").joinpath(place)
    paths = [path] if path.is_file() else folder.iterdir()
    modules = [path for path in paths if path.name.endswith(".py")]
    trees = [ast.parse(module.read_text(encoding="utf-8")) for module in modules]
    return [node for tree in trees for node in tree.body]
