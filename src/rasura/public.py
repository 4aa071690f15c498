"""What `import rasura` offers."""

from rasura import methods
from rasura.auditing import VERDICTS
from rasura.data import Data, Examples, ForgetClasses, ForgetSamples, Standardise, load_data
from rasura.errors import InputError
from rasura.finding import Finding, audit, audit_all
from rasura.methods.contract import Method, Outcome, Problem, forget
from rasura.models import build_model, load_model, save_model
from rasura.strength import Search, search_strength
from rasura.training import Recipe, fit, predict

__all__ = [
    "VERDICTS",
    "Data",
    "Examples",
    "Finding",
    "ForgetClasses",
    "ForgetSamples",
    "InputError",
    "Method",
    "Outcome",
    "Problem",
    "Recipe",
    "Search",
    "Standardise",
    "audit",
    "audit_all",
    "build_model",
    "fit",
    "forget",
    "load_data",
    "load_model",
    "methods",
    "predict",
    "save_model",
    "search_strength",
]
