"""The family of questions with all of its members: importing this imports every module of the folder."""

import importlib
import pkgutil

from pyro_vae import evaluation
from pyro_vae.evaluation.question import Question

__all__ = ["Question"]

for _module in pkgutil.iter_modules(evaluation.__path__):
    importlib.import_module(f"{evaluation.__name__}.{_module.name}")
