"""What a net computes inside: hooks, passes that read, and the parts that it is made of."""

from rasura.activations.anatomy import Anatomy, NoLinearMapError, anatomy, unreadable
from rasura.activations.moments import Moments, moments
from rasura.activations.pooling import pooled, pooling_of
from rasura.activations.reading import fast_layout, features, stream
from rasura.activations.taps import Point, is_operator, tap

__all__ = [
    "Anatomy",
    "Moments",
    "NoLinearMapError",
    "Point",
    "anatomy",
    "fast_layout",
    "features",
    "is_operator",
    "moments",
    "pooled",
    "pooling_of",
    "stream",
    "tap",
    "unreadable",
]
