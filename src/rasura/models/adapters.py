"""Low-rank adapters (LoRA) on a net's layers, by the peft library: put on, taken off, folded in, stored and loaded."""

import importlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rasura.errors import InputError, each_once, first_line
from rasura.files import hash_of_file, hash_of_json, library_writes, read_json, write_json
from rasura.models.card import card_of, hash_of_model, with_card
from rasura.models.copies import copy_of
from rasura.models.header import shapes_in
from rasura.models.logits import device_of
from rasura.randomness import seeded

if TYPE_CHECKING:
    from peft import PeftModel

NOTE = "adapter.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DESCRIBING = {"peft_version", "base_model_name_or_path", "inference_mode"}
"""Fields of PEFT's file that say where an adapter comes from, and change nothing of what it does."""
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
    with _quiet(), seeded(seed, device_of(model)):
        adapted = _peft().get_peft_model(model, _config(ranks))
    return adapted.eval()


def _config(ranks: Mapping[str, int]) -> Any:
    """PEFT's `LoraConfig` for these ranks; it names layers whole, where PEFT's lists match the ends of names."""
    highest, exact = max(ranks.values()), {_exact(name): rank for name, rank in ranks.items()}
    names = "|".join(re.escape(name) for name in sorted(ranks))
    alphas = {"lora_alpha": highest, "alpha_pattern": dict(exact)}
    return _peft().LoraConfig(r=highest, rank_pattern=exact, target_modules=names, **alphas)


def _exact(name: str) -> str:
    return f"^{re.escape(name)}$"


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

    Only the ranks of the layers and the matrices are taken from a folder. What else its `adapter_config.json` says is
    compared with what rasura writes, and handed to nobody: it could name code, patterns without end, or other models.

    Args:
        model: the very model that each of the adapters was trained on.
        folders: what `write_adapter` wrote.

    Raises:
        InputError: no adapter in a folder, a damaged or changed one, one that rasura did not write, one of another base
            model, or one given twice.
    """
    notes = [_note(Path(folder), model) for folder in folders]
    each_once("adapter", [Path(folder).resolve() for folder in folders])
    net, names = copy_of(model), [f"forgetting_{number}" for number in range(1, len(folders) + 1)]
    configs = [_config(_ranks_in(Path(folder), model)) for folder in folders]
    with _quiet(), seeded(0, device_of(model)):
        adapted = _peft().get_peft_model(net, configs[0], adapter_name=names[0])
        for name, config in zip(names[1:], configs[1:], strict=True):
            adapted.add_adapter(name, config)
        for name, folder in zip(names, folders, strict=True):
            _fill(adapted, name, Path(folder) / WEIGHTS)
        adapted.base_model.set_adapter(names)
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
    digests = {name: hash_of_file(folder / name) for name in (CONFIG, WEIGHTS)}
    note = {"format": 2, "base": adapter.base, "history": history[-1] if history else None, "sha256": digests}
    write_json(folder / NOTE, {**note, "hash": hash_of_json(note)})


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
    _check_unchanged(note, folder)
    if note.get("base") != found:
        raise InputError(
            f"adapter: {folder} is of another base model (hash {note.get('base')}); allowed: one of this model, {found}"
        )
    return note


def _check_unchanged(note: dict[str, Any], folder: Path) -> None:
    digests = note.get("sha256")
    if not isinstance(digests, dict) or not isinstance(note.get("history"), dict | None):
        raise InputError(
            f"adapter: {folder / NOTE} holds no hashes of {CONFIG} and {WEIGHTS}; allowed: the file as rasura wrote it"
        )
    rest = {field: value for field, value in note.items() if field != "hash"}
    changed = [NOTE] if note.get("hash") != hash_of_json(rest) else []
    changed += [name for name in (CONFIG, WEIGHTS) if digests.get(name) != hash_of_file(folder / name)]
    if changed:
        raise InputError(f"adapter: {folder / changed[0]} was changed or damaged; allowed: the file as rasura wrote it")


def _ranks_in(folder: Path, model: nn.Module) -> dict[str, int]:
    """The rank of each layer's adapter, from a configuration that says nothing else than ours do."""
    found = read_json(folder / CONFIG)
    given = found.get("rank_pattern")
    given = given if isinstance(given, dict) else {}
    ranks = {name: given[_exact(name)] for name, _ in model.named_modules() if _exact(name) in given}
    for name, rank in ranks.items():
        weight = getattr(model.get_submodule(name), "weight", None)
        most = largest_rank(model.get_submodule(name)) if isinstance(weight, Tensor) and weight.ndim > 1 else 0
        if type(rank) is not int or not 1 <= rank <= most:
            raise InputError(f"adapter: rank {rank!r} of {name} in {folder / CONFIG}; allowed: 1 to {most}")
    if not ranks:
        raise InputError(f"adapter: {folder / CONFIG} gives no layer of the model a rank; allowed: as rasura writes it")
    ours = json.loads(json.dumps(_config(ranks).to_dict(), default=list))
    for field, value in found.items():
        if field not in DESCRIBING and value != ours.get(field) and (value or field in ours):
            said = f"{field} = {str(value)[:100]!r} in {folder / CONFIG}"
            raise InputError(f"adapter: {said}; allowed: {ours.get(field)!r}, as rasura writes it")
    return ranks


def _fill(adapted: "PeftModel", name: str, weights: Path) -> None:
    _check_complete(adapted, name, weights)
    try:
        tensors = load_file(weights)
        _peft().set_peft_model_state_dict(adapted, tensors, adapter_name=name)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        said = f"{weights} cannot be loaded ({first_line(error)})"
        raise InputError(f"adapter: {said}; allowed: the file as rasura wrote it") from None
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"adapter: {broken[0]} in {weights} holds NaN or infinite weights; allowed: finite weights")


def _check_complete(adapted: "PeftModel", name: str, weights: Path) -> None:
    """peft leaves a matrix that the file lacks at its fresh value, and says nothing of one that it has no place for."""
    wanted = set(_peft().get_peft_model_state_dict(adapted, adapter_name=name))
    odd = sorted(wanted ^ set(shapes_in(weights)))
    if odd:
        how = "lacks" if odd[0] in wanted else "also has"
        raise InputError(f"adapter: {weights} {how} {odd[0]}; allowed: the matrices that {CONFIG} asks for")


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
