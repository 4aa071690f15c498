"""Low-rank adapters (LoRA) on a net's layers, by the peft library: put on, taken off, folded in, stored and loaded."""

import copy
import importlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rasura.errors import InputError, first_line
from rasura.files import hash_of_file, library_writes, read_json, write_json
from rasura.models.card import card_of, hash_of_model, with_card

if TYPE_CHECKING:
    from peft import PeftModel

NOTE = "adapter.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ATTRIBUTE = "_rasura_adapter"


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that was folded into a model and can still be stored on its own.

    Attributes:
        config: peft's `LoraConfig`.
        weights: the two small matrices of every layer, by peft's names.
        base: hash of the model that it was trained on.
        result: hash of the model with the adapter folded in; another hash means that the model has changed since.
    """

    config: Any
    weights: dict[str, Tensor]
    base: str
    result: str


def largest_rank(layer: nn.Module) -> int:
    """The rank beyond which a layer's adapter can do nothing more: the smaller side of its weight matrix.

    >>> largest_rank(nn.Linear(64, 10)), largest_rank(nn.Conv2d(1, 16, 3))
    (10, 9)
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return min(weight.shape[0], weight[0].numel())


def takes_adapter(model: nn.Module, name: str) -> bool:
    """Whether a layer can have an adapter of its own: its channels are not grouped, and no other layer has its weight.

    The adapter of a grouped convolution cannot be folded in; that of a tied weight would change both layers.
    """
    layer = model.get_submodule(name)
    tied = [key for key, parameter in model.named_parameters(remove_duplicate=False) if parameter is layer.weight]
    return bool(name) and getattr(layer, "groups", 1) == 1 and len(tied) == 1


def with_new_adapter(model: nn.Module, ranks: Mapping[str, int], seed: int) -> "PeftModel":
    """The same model, whose layers now have adapters that do nothing yet; they alone can be trained.

    Each adapter adds B A x to what its layer says, with A drawn from `seed` (He et al., 2015) and B zero, as in Hu et
    al. (2021, "LoRA", section 4.1); their scale alpha / r is 1.

    Args:
        model: any net; it is changed in place.
        ranks: the rank of each layer's adapter, by the layer's name.
        seed: of the adapters' first weights.
    """
    peft = _peft()
    exact = {f"^{re.escape(name)}$": rank for name, rank in ranks.items()}
    highest = max(ranks.values())
    config = peft.LoraConfig(
        r=highest,
        lora_alpha=highest,
        rank_pattern=exact,
        alpha_pattern=exact,
        target_modules="|".join(re.escape(name) for name in ranks),
    )
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, config)
    return adapted.eval()


@contextmanager
def adapters_off(adapted: "PeftModel") -> Iterator[None]:
    """Inside the block the model speaks as its base does: the same weights, without the adapters' part."""
    with adapted.disable_adapter():
        yield


def merged(adapted: "PeftModel") -> nn.Module:
    """The base model with the active adapters folded into its weights: its own class and names."""
    net = adapted.merge_and_unload()  # pyright: ignore[reportCallIssue]
    return _plain(net)


def without_adapters(adapted: "PeftModel") -> nn.Module:
    """The base model again, bit for bit."""
    return _plain(adapted.unload())  # pyright: ignore[reportCallIssue]


def with_adapters(model: nn.Module, folders: Sequence[str | Path]) -> "PeftModel":
    """A copy of a base model that carries stored adapters, all active: what they say is added up.

    Args:
        model: the very model that each of the adapters was trained on.
        folders: what `write_adapter` wrote.

    Raises:
        InputError: no adapter in a folder, a damaged or changed one, one of another base model, or one given twice.
    """
    peft = _peft()
    notes = [_note(Path(folder), model) for folder in folders]
    _check_each_once(folders)
    net, names = copy.deepcopy(model), [f"forgetting_{number}" for number in range(1, len(folders) + 1)]
    try:
        with _quiet():
            adapted = peft.PeftModel.from_pretrained(net, str(folders[0]), adapter_name=names[0])
            for folder, name in zip(folders[1:], names[1:], strict=True):
                adapted.load_adapter(str(folder), adapter_name=name)
            adapted.base_model.set_adapter(names)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        said = f"{', '.join(map(str, folders))} cannot be loaded ({first_line(error)})"
        raise InputError(f"adapter: {said}; allowed: folders as rasura wrote them") from None
    for folder, name in zip(folders, names, strict=True):
        _check_complete(adapted, name, Path(folder))
    card = card_of(model)
    for note in notes:
        card = card.after(note["history"]) if note["history"] else card
    with_card(net, card)
    return adapted.eval()


def keep_adapter(model: nn.Module, config: Any, weights: dict[str, Tensor], base: str) -> None:
    """Let a model remember the adapter that was folded into it, so that `write_model` stores it beside the weights."""
    setattr(model, _ATTRIBUTE, Adapter(config, weights, base, hash_of_model(model)))


def kept_adapter(model: nn.Module) -> Adapter | None:
    """The adapter that was folded into this model last; None if there is none, or weights have changed since."""
    adapter = getattr(model, _ATTRIBUTE, None)
    return adapter if adapter and adapter.result == hash_of_model(model) else None


def write_adapter(model: nn.Module, folder: Path) -> None:
    """Write a model's kept adapter in PEFT's format, with a note that says of which base it is."""
    adapter = kept_adapter(model)
    assert adapter is not None
    folder.mkdir()
    adapter.config.save_pretrained(str(folder))
    with library_writes(folder / WEIGHTS):
        save_file({name: tensor.contiguous() for name, tensor in adapter.weights.items()}, folder / WEIGHTS)
    history = card_of(model).history
    note = {"format": 1, "base": adapter.base, "history": history[-1] if history else None}
    write_json(folder / NOTE, {**note, "sha256": hash_of_file(folder / WEIGHTS)})


def weights_of_adapter(adapted: "PeftModel") -> dict[str, Tensor]:
    """The adapter's own weights, copied, as PEFT stores them."""
    found = _peft().get_peft_model_state_dict(adapted)
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except (ImportError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise InputError(
            f"peft: cannot be imported ({first_line(cause)}); allowed: pip install 'rasura[lora]', and, if torchvision "
            "is there, the build of it that belongs to this torch"
        ) from None


def _note(folder: Path, model: nn.Module) -> dict[str, Any]:
    for name in (NOTE, CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"adapter: {folder} holds no {name}; allowed: the adapter/ folder of rasura forget rfa")
    note, found = read_json(folder / NOTE), hash_of_model(model)
    if note.get("base") != found:
        raise InputError(
            f"adapter: {folder} is of another base model (hash {note.get('base')}); allowed: one of this model, {found}"
        )
    written = note.get("sha256")  # older folders have none
    if written not in (None, hash_of_file(folder / WEIGHTS)):
        raise InputError(f"adapter: {folder / WEIGHTS} was changed or damaged; allowed: the file as rasura wrote it")
    return note


def _check_each_once(folders: Sequence[str | Path]) -> None:
    seen: set[Path] = set()
    for folder in (Path(folder).resolve() for folder in folders):
        if folder in seen:
            raise InputError(f"adapter: {folder} is given twice; allowed: each folder once")
        seen.add(folder)


def _check_complete(adapted: "PeftModel", name: str, folder: Path) -> None:
    """peft leaves a matrix that the file lacks at its fresh value, and says nothing of one that it has no place for."""
    wanted = set(_peft().get_peft_model_state_dict(adapted, adapter_name=name))
    odd = sorted(wanted ^ set(load_file(folder / WEIGHTS)))
    if odd:
        how = "lacks" if odd[0] in wanted else "also has"
        raise InputError(f"adapter: {folder / WEIGHTS} {how} {odd[0]}; allowed: the matrices that {CONFIG} asks for")


def _plain(net: nn.Module) -> nn.Module:
    for left in ("peft_config", "peft_type", "_hf_peft_config_loaded"):
        if left in vars(net):
            delattr(net, left)
    return net.requires_grad_(True).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """peft says of every Conv1D, and of every model without a name, what we know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
