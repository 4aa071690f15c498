"""rasura: make a trained classifier forget a class, and prove what is left of it inside."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rasura.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Public names are imported when one is asked for: the command line prepares its process before torch is there."""
    public = importlib.import_module("rasura.public")
    if name == "__all__" or name in public.__all__:
        return getattr(public, name)
    raise AttributeError(f"module 'rasura' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
