"""Ways to forget. One file is one method; a method is found by the name of its file.

`rasura.methods.Damp` is loaded from `damp.py` when it is first used, so that importing the package stays quick.
"""

from typing import TYPE_CHECKING, Any

from rasura.methods.contract import Method, Outcome, Problem, class_name, forget, method_class, names

if TYPE_CHECKING:
    from rasura.methods.bias_shift import BiasShift as BiasShift
    from rasura.methods.damp import Damp as Damp
    from rasura.methods.finetune import Finetune as Finetune
    from rasura.methods.logit_mask import LogitMask as LogitMask
    from rasura.methods.retrain import Retrain as Retrain

__all__ = ["Method", "Outcome", "Problem", "forget", "method_class", "names"]


def __getattr__(name: str) -> Any:
    by_class = {class_name(method): method for method in names()}
    if name not in by_class:
        raise AttributeError(f"rasura.methods has no {name!r}; it has {', '.join(by_class)}")
    return method_class(by_class[name])


def __dir__() -> list[str]:
    return [*__all__, *(class_name(method) for method in names())]
