"""What of a model decides a result: its weights, and all that they do not show."""

from typing import Any

from torch import nn

from rasura.files import hash_of_file, hash_of_json
from rasura.identity import library_of, library_versions, structure_of
from rasura.models.card import card_of, hash_of_model
from rasura.user_code import file_in


def identity_of_model(model: nn.Module) -> dict[str, Any]:
    """What two models must share to give the same results, as JSON values.

    Returns:
        `architecture` (its name, or its class), `weights` (see `hash_of_model`), `structure` (a hash of the settings
        and the code of every module: the same weights with 2 or 8 attention heads are two models), `code` (see
        `code_behind`) and `versions` of the libraries that its modules are of.
    """
    net: Any = getattr(model, "_orig_mod", model)  # a compiled net computes what the one inside it does
    architecture = card_of(model).architecture
    libraries = {library_of(type(module)) for module in net.modules()} - {None, "rasura", "torch"}
    return {
        "architecture": architecture or type(net).__qualname__,
        "weights": hash_of_model(net),
        "structure": hash_of_json(structure_of(net)),
        "code": code_behind(architecture),
        "versions": library_versions(filter(None, libraries)),
    }


def code_behind(architecture: str | None) -> str | None:
    """The hash of the Python file that an architecture names; None if it names none, or the file is not there."""
    file = file_in((architecture or "").partition(",")[0])
    return hash_of_file(file) if file.suffix == ".py" and file.is_file() else None
