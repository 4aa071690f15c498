"""Where a closed-form method reads and edits: every learnable linear map that runs, in order, with what is at hand."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rasura.activations import Point, anatomy, is_operator, tap
from rasura.data.examples import Inputs
from rasura.methods._shortcuts import last_sum
from rasura.models import device_of, logits_of, to_device
from rasura.training import evaluating

Pool = Literal["maps", "vectors", "tokens", "first token", "tokens first"]
MOST_FEATURES = 4096
"""Moments of wider inputs would not fit: their squares are held in float64."""


@dataclass(frozen=True, eq=False)
class Site:
    """A learnable linear map and the place where its input can be read.

    Attributes:
        name: the module's name; the two maps of an `nn.MultiheadAttention` are called `….in_proj` and `….out_proj`.
        point: where its input passes. The input of `out_proj` passes as the attention's output while it is `opened`.
        module: the module that holds the weight (see `_operator.as_taps`).
        weight: its weight.
        bias: its bias, if it has one.
        groups: into how many groups a convolution splits its channels; else 1.
        pool: how an example's positions become one vector: "maps" `[B, C, …]`, "vectors" `[B, d]`, "tokens"
            `[B, …, d]`, "first token", "tokens first" `[T, B, d]`.
        norm: the BatchNorm that takes the output directly, or "".
        skipped: why it cannot be edited; empty if it can.
        last: whether no other map takes its output up: the last one before the head, and those whose outputs are
            added to that one's.
        carried: of the last map before the head, where what a shortcut adds to its output can be read; else None.
        answers: whether its outputs make the answers: the head, or a member's of an ensemble.
    """

    name: str
    point: Point
    module: nn.Module
    weight: Tensor
    bias: nn.Parameter | None
    groups: int
    pool: Pool
    norm: str
    skipped: str
    last: bool = False
    carried: Point | None = None
    answers: bool = False

    def vectors(self, tensor: Tensor) -> Tensor:
        """One vector per example in the map's input space: the mean over positions, or the class token, `[B, d]`.

        Half-precision inputs are averaged in float32.
        """
        wide = torch.promote_types(tensor.dtype, torch.float32)
        if self.pool == "maps":
            return tensor.flatten(2).mean(2, dtype=wide)
        if self.pool == "tokens first":
            return tensor.mean(0, dtype=wide)
        tokens = tensor.reshape(len(tensor), -1, tensor.shape[-1])
        return tokens[:, 0].to(wide) if self.pool == "first token" else tokens.mean(1, dtype=wide)

    @property
    def in_stream(self) -> bool:
        """Whether it reads token sequences: a transformer's residual stream passes by it to the head."""
        return self.pool not in ("maps", "vectors")

    def resumed(self, tensor: Tensor) -> Tensor | None:
        """What goes on after the site has been read: for an opened `out_proj`, what it makes of its input."""
        return F.linear(tensor, self.weight, self.bias) if self.point.side == "output" else None


@torch.no_grad()
def find_sites(model: nn.Module, inputs: Inputs) -> list[Site]:
    """Every learnable linear map that runs on a small batch, in order, the head last.

    Where a linear map takes the first token of a sequence (a class token), token sequences are read at that token.

    Raises:
        InputError: no learnable linear map runs.
    """
    parts = anatomy(model, inputs)
    norms = parts.norms
    seen = _trace(model, inputs)
    batch = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
    owners: dict[int, str] = {id(p): "" for p in _others(model)}
    sites = []
    for name in seen.order:
        module = model.get_submodule(name)
        kinds = _attention(name, module, seen) if isinstance(module, nn.MultiheadAttention) else [_plain(name, module)]
        for part, point, owner, weight, reason in kinds:
            pool = _pool(module, seen, name, batch)
            if not reason:
                reason = _reason(owner, weight, batch, seen, name, pool, owners.get(id(weight)))
            owners.setdefault(id(weight), part)
            groups: Any = getattr(module, "groups", 1)
            bias: Any = owner.in_proj_bias if isinstance(owner, nn.MultiheadAttention) else owner.bias
            norm, answers = norms.get(name, ""), part in parts.heads
            sites.append(Site(part, point, owner, weight, bias, groups, pool, norm, reason, answers=answers))
    return _with_last(model, inputs, sites, norms)


def _with_last(model: nn.Module, inputs: Inputs, sites: list[Site], norms: Mapping[str, str]) -> list[Site]:
    """The sites, with those marked whose outputs make the features that the head reads."""
    if len(sites) < 2:
        return sites
    *before, last, head = sites
    # Of an attention, the module is the attention, and the map that writes is its output projection.
    found = last_sum(model, inputs, last.point.module, norms)
    before = [replace(site, last=site.point.module in found.maps and not _is_inner(site)) for site in before]
    through: Any = model.get_submodule(last.norm) if last.norm else None
    unknown = through is not None and through.running_var is None  # its scale is another one for every batch
    return [*before, replace(last, last=True, carried=None if last.skipped or unknown else found.carried), head]


def _is_inner(site: Site) -> bool:
    return isinstance(site.module, nn.MultiheadAttention)  # its input projection: the output projection comes after it


@contextlib.contextmanager
def opened(sites: list[Site]) -> Iterator[None]:
    """While the block runs, attentions return what goes into their `out_proj`; `Site.resumed` does the rest.

    PyTorch's attention multiplies by that weight inside one function, so no hook sees its input.
    """
    outputs = [site.module for site in sites if site.point.side == "output" and not site.skipped]
    closed = [module for module in outputs if isinstance(module, nn.Linear)]
    kept = [(module.weight, module.bias) for module in closed]
    try:
        for module in closed:
            module.weight = nn.Parameter(torch.eye(len(module.weight)).to(module.weight), requires_grad=False)
            module.register_parameter("bias", None)
        yield
    finally:
        for module, (weight, bias) in zip(closed, kept, strict=True):
            module.weight = weight
            module.register_parameter("bias", bias)


class _Seen:
    """What a small forward pass showed: the order of linear maps, their inputs, and which attentions look elsewhere."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.calls: dict[str, int] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.class_token = False
        self.crossing: set[str] = set()


class _Crossings(TorchFunctionMode):
    """Notes the attentions whose keys or values are not their queries."""

    def __init__(self, seen: _Seen):
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.multi_head_attention_forward and not (args[0] is args[1] is args[2]):
            self.seen.crossing.add(self.seen.order[-1])
        return func(*args, **(kwargs or {}))


def _trace(model: nn.Module, inputs: Inputs) -> _Seen:
    seen, sequences = _Seen(), []

    def enter(name: str) -> Callable[[Tensor], None]:
        def note(tensor: Tensor) -> None:
            if name not in seen.calls:
                seen.order.append(name)
            seen.calls[name] = seen.calls.get(name, 0) + 1
            seen.shapes[name] = tensor.shape
            if tensor.ndim == 2:
                seen.class_token |= any(_starts_with(sequence, tensor) for sequence in sequences)

        return note

    def leave(tensor: Tensor) -> None:
        if tensor.ndim == 3 and tensor.shape[1] > 1:
            sequences.append(tensor)

    modules = dict(model.named_modules())
    maps = [
        name for name, module in modules.items() if is_operator(module) or isinstance(module, nn.MultiheadAttention)
    ]
    points: dict[Point, Any] = {Point(name, "input"): enter(name) for name in maps}
    points |= {Point(name): leave for name in modules if name}
    with evaluating(model), tap(model, points), _Crossings(seen):
        logits_of(model, to_device(inputs, device_of(model)))
    return seen


def _starts_with(sequence: Tensor, vectors: Tensor) -> bool:
    return sequence[:, 0].shape == vectors.shape and torch.equal(sequence[:, 0], vectors)


def _others(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of modules that are no linear maps: a weight that a linear map shares with them must stay."""
    for module in model.modules():
        if not is_operator(module) and not isinstance(module, nn.MultiheadAttention):
            yield from module.parameters(recurse=False)


def _plain(name: str, module: nn.Module) -> tuple[str, Point, nn.Module, Any, str]:
    return name, Point(name, "input"), module, module.weight, ""


def _attention(name: str, module: nn.MultiheadAttention, seen: _Seen) -> list[tuple[str, Point, nn.Module, Any, str]]:
    reason = "its keys and values are other tokens than its queries" if name in seen.crossing else ""
    if module.in_proj_weight is None:
        reason = "its keys and values have sizes of their own"
    return [
        (f"{name}.in_proj", Point(name, "input"), module, module.in_proj_weight, reason),
        (f"{name}.out_proj", Point(name), module.out_proj, module.out_proj.weight, ""),
    ]


def _reason(owner: nn.Module, weight: Any, batch: int, seen: _Seen, name: str, pool: Pool, holder: str | None) -> str:
    """Why a map cannot be edited; empty if it can."""
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from other parameters"
    if holder is not None:
        return f"its weight is shared with {holder or 'another kind of module'}"
    if seen.calls[name] > 1:
        return f"it runs {seen.calls[name]} times in one pass"
    shape = seen.shapes[name]
    if shape[1 if pool == "tokens first" else 0] != batch:
        return f"its inputs {tuple(shape)} are not one per example"
    groups = getattr(owner, "groups", 1)
    if groups > 1 and weight.shape[1] == 1:
        return "depthwise convolution: a group of one channel has no direction to lose"
    features = shape[1] if pool == "maps" else shape[-1]
    if features > MOST_FEATURES:
        return f"inputs of {features} features; at most {MOST_FEATURES}"
    return ""


def _pool(module: nn.Module, seen: _Seen, name: str, batch: int) -> Pool:
    shape = seen.shapes[name]
    if isinstance(module, nn.modules.conv._ConvNd):
        return "maps"
    if len(shape) == 2:
        return "vectors"
    if len(shape) == 3 and shape[0] != batch == shape[1]:
        return "tokens first"
    return "first token" if seen.class_token and len(shape) == 3 else "tokens"
