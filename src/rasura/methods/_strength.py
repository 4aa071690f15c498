"""How strongly a method forgets, as one of its fields and a range of values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any, Literal

Scale = Literal["log", "linear", "logit"]
DIGITS = {"log": 3, "linear": 3, "logit": 6}


@dataclass(frozen=True)
class Strength:
    """The field that decides how much a method forgets, and where `rasura.search_strength` looks for its value.

    Attributes:
        field: the name of one of the method's fields. Whole numbers stay whole if `weakest` is one.
        weakest: the value that forgets least.
        strongest: the value that forgets most; it may be the smaller number.
        scale: how the values between lie: evenly in the logarithm, evenly, or evenly in the logarithm of
            value / (1 - value), for shares near 1.
        otherwise: values of other fields with which the search tries again where no strength alone would do.

    >>> rate = Strength("learning_rate", 1e-4, 1e-2)
    >>> rate.at(0), rate.at(0.5), rate.at(1)
    (0.0001, 0.001, 0.01)
    >>> rate.position(0.001), Strength("blocks", 1, 9, "linear").at(0.4), rate.position(0.5)
    (0.5, 4, None)
    """

    field: str
    weakest: float
    strongest: float
    scale: Scale = "log"
    otherwise: Mapping[str, Any] = dataclass_field(default_factory=dict)

    def at(self, position: float) -> float:
        """The value at a position from 0, the weakest, to 1, the strongest, rounded to what a person would type."""
        low, high = (self._stretched(end) for end in (self.weakest, self.strongest))
        value = self._shrunk(low + position * (high - low))
        return round(value) if isinstance(self.weakest, int) else float(f"{value:.{DIGITS[self.scale]}g}")

    def position(self, value: float) -> float | None:
        """Where a value lies, 0..1; None for one outside of the range."""
        if not min(self.weakest, self.strongest) <= value <= max(self.weakest, self.strongest):
            return None
        low, here, high = (self._stretched(one) for one in (self.weakest, value, self.strongest))
        return round((here - low) / (high - low), 9)

    def applied(self, method: Any, position: float) -> Any:
        """The method with its field at a position."""
        return replace(method, **{self.field: self.at(position)})

    def _stretched(self, value: float) -> float:
        if self.scale == "linear":
            return value
        return math.log(value) if self.scale == "log" else math.log(value / (1 - value))

    def _shrunk(self, value: float) -> float:
        if self.scale == "linear":
            return value
        return math.exp(value) if self.scale == "log" else 1 / (1 + math.exp(-value))
