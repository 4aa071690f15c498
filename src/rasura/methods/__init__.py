"""Ways to forget. One file is one method; a method is found by the name of its file.

`rasura.methods.Damp` is loaded from `damp.py` when it is first used, so that importing the package stays quick.
"""

from typing import TYPE_CHECKING, Any

from rasura.methods._found import class_name, method_class, names
from rasura.methods._history import forgotten_classes
from rasura.methods._strength import Strength
from rasura.methods.contract import Method, Outcome, Problem, forget

if TYPE_CHECKING:
    from rasura.methods.bad_teacher import BadTeacher as BadTeacher
    from rasura.methods.bias_shift import BiasShift as BiasShift
    from rasura.methods.boundary_expand import BoundaryExpand as BoundaryExpand
    from rasura.methods.boundary_shrink import BoundaryShrink as BoundaryShrink
    from rasura.methods.catastrophic_forgetting_k import CatastrophicForgettingK as CatastrophicForgettingK
    from rasura.methods.damp import Damp as Damp
    from rasura.methods.delete import Delete as Delete
    from rasura.methods.domain_adversarial import DomainAdversarial as DomainAdversarial
    from rasura.methods.exact_k import ExactK as ExactK
    from rasura.methods.finetune import Finetune as Finetune
    from rasura.methods.gradient_ascent import GradientAscent as GradientAscent
    from rasura.methods.head_reset import HeadReset as HeadReset
    from rasura.methods.l1_sparse import L1Sparse as L1Sparse
    from rasura.methods.linear_filtration import LinearFiltration as LinearFiltration
    from rasura.methods.logit_mask import LogitMask as LogitMask
    from rasura.methods.negative_gradient import NegativeGradient as NegativeGradient
    from rasura.methods.random_relabel import RandomRelabel as RandomRelabel
    from rasura.methods.retrain import Retrain as Retrain
    from rasura.methods.rfa import Rfa as Rfa
    from rasura.methods.salun import Salun as Salun
    from rasura.methods.scrub import Scrub as Scrub
    from rasura.methods.ssd import Ssd as Ssd
    from rasura.methods.svd_projection import SvdProjection as SvdProjection
    from rasura.methods.unsir import Unsir as Unsir

__all__ = ["Method", "Outcome", "Problem", "Strength", "forget", "forgotten_classes", "method_class", "names"]


def __getattr__(name: str) -> Any:
    by_class = {class_name(method): method for method in names()}
    if name not in by_class:
        raise AttributeError(f"rasura.methods has no {name!r}; it has {', '.join(by_class)}")
    return method_class(by_class[name])


def __dir__() -> list[str]:
    return [*__all__, *(class_name(method) for method in names())]
