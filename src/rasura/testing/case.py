"""A case of the conformance suite: models and data whose truth is known, and what the audit may say of them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from rasura.testing.stage import Inputs, Stage

REFUSED = "refused"
"""An `InputError` in the place of a verdict."""
FINE = ("ERASED", "INCONCLUSIVE")
"""What an honest model may get: INCONCLUSIVE is no accusation."""
HIDDEN = ("NOT FORGOTTEN", "MASKED", "RESIDUAL", "OVER-ERASED")
"""What a model must get that still holds the class, or hides it in a way that no retrained model has."""
READABLE = ("MASKED", "RESIDUAL")
"""What a model must get in which the class can be read off what was left in place."""
NOT_CLEARED = (*HIDDEN, "INVALID")
"""A model that behaves otherwise while it is audited is exposed, or found to be none that can be audited."""
NOT_SETTLED = ("INVALID", "INCONCLUSIVE")
"""What must be said where the references prove nothing."""


@dataclass(frozen=True)
class Case:
    """Models and data whose truth is known.

    Attributes:
        name: what it is called; each once.
        expected: the verdicts that are right.
        make: the audited model, to stand beside the stage's original and references, or all that the audit is given.
        where: places (rungs, layers, gates) that the verdict may name; empty allows any.
        needs: what an audit must have to see it, in words, where more than the basic readers is needed.
        library: a package that `make` imports; empty for none.
        slow: trains models of its own, or is an audit of its own.
    """

    name: str
    expected: tuple[str, ...]
    make: Callable[[Stage], nn.Module | Inputs]
    where: tuple[str, ...] = ()
    needs: str = ""
    library: str = ""
    slow: bool = False


@dataclass(frozen=True)
class Found:
    """What the audit said: a verdict (or `REFUSED`), the place that decided, the reason."""

    verdict: str
    where: str
    reason: str

    def mistake(self, case: Case) -> str:
        """What is wrong with it, in one line; empty if nothing is."""
        right = self.verdict in case.expected and (not case.where or self.where in case.where)
        if right:
            return ""
        allowed = " or ".join(case.expected) + (f" at {' or '.join(case.where)}" if case.where else "")
        return f"{case.name}: {self.verdict} at {self.where or 'no place'}; allowed: {allowed}. {self.reason}"
