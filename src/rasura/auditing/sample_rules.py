"""Rules on a request to forget training examples: whether they are still told from examples that were never seen."""

from rasura.auditing.case import Case, Ruling, beside, place_of, surely_above
from rasura.auditing.decoded import HEAD_SWAP, UNWRAPPED

_AS_THE_ORIGINAL = 0.5
"""A residual index from which on the model treats the examples rather as the original does."""


def still_remembered(case: Case) -> Ruling | None:
    """A primary signal lies nearer to the original's than to the retrained models', and surely above theirs."""
    for one in case.primary:
        index = one.residual_index
        if one.above and index is not None and index >= _AS_THE_ORIGINAL:
            reason = f"It tells the examples from ones that it never saw, as the original does. {beside(case, one)}"
            return Ruling("NOT FORGOTTEN", place_of(one), reason)
    return None


def hidden(case: Case) -> Ruling | None:
    """The outputs are silent, but the net below them, or the original's last layer on its features, is not."""
    for one in case.membership:
        if one.layer in (UNWRAPPED, HEAD_SWAP) and one.above:
            what = "Code outside the net hides it." if one.layer == UNWRAPPED else "The original's last layer shows it."
            return Ruling(
                "MASKED", one.layer, f"The examples are told from ones never seen. {what} {beside(case, one)}"
            )
    return None


def remembered_in_part(case: Case) -> Ruling | None:
    """A primary signal, or one of the others, lies above the retrained models'."""
    one = next((one for one in case.primary if one.above), None)
    one = one or surely_above([one for one in case.membership if not one.primary])
    return one and Ruling("RESIDUAL", place_of(one), f"The examples are told from ones never seen. {beside(case, one)}")


def avoided(case: Case) -> Ruling | None:
    """The examples look less like training examples than ones never seen do, beyond the retrained models."""
    one = next((one for one in case.primary if one.below), None)
    return one and Ruling("OVER-ERASED", place_of(one), f"They stand out as avoided. {beside(case, one)}")
