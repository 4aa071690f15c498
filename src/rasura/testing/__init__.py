"""Contracts as checks that anyone can call: `check_method(MyMethod())`.

`rasura.testing.conformance` holds the audit's: every case that it must get right.
"""

from rasura.testing._watched import HOOKS, PARAMETER_HOOKS, PARTS
from rasura.testing.methods import BRIEFLY, PER_CLASS, check_method, small_problem

__all__ = ["BRIEFLY", "HOOKS", "PARAMETER_HOOKS", "PARTS", "PER_CLASS", "check_method", "small_problem"]
