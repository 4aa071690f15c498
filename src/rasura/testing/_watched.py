"""What `check_method` watches while a method runs: rows fetched, generators, output, files, the given model."""

import contextlib
import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rasura.data import Examples
from rasura.methods.contract import Problem

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""Where a module keeps its hooks."""
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
PARTS = ("forget", "retain")


class _Recording:
    """A source of examples that notes which rows are fetched."""

    def __init__(self, source: Any):
        self.source = source
        self.read: set[int] = set()
        self.rows: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: Any) -> Any:
        self.read.update(torch.as_tensor(row).reshape(-1).tolist())
        return self.source[row]

    def __getitems__(self, rows: list[int]) -> list[Any]:
        if hasattr(self.source, "__getitems__"):
            self.read.update(rows)
            return self.source.__getitems__(rows)
        return [self[row] for row in rows]

    def declared(self, reads: Sequence[str]) -> set[int]:
        """The rows of the parts that are declared."""
        return set().union(*(rows for part, rows in self.rows.items() if part in reads))


def recorded(problem: Problem) -> tuple[Problem, list[_Recording]]:
    """The same problem on recording sources; parts that share a source share its recording."""
    made: dict[int, Any] = {}
    recordings: list[_Recording] = []
    parts: dict[str, Examples] = {}
    for part in PARTS:
        examples: Examples = getattr(problem, part)
        columns = examples.source if isinstance(examples.source, dict) else {"": examples.source}
        for column in columns.values():
            if id(column) not in made:
                made[id(column)] = _Recording(column)
                recordings.append(made[id(column)])
            made[id(column)].rows[part] = set(examples.rows.tolist())
        wrapped = {name: made[id(column)] for name, column in columns.items()}
        parts[part] = replace(examples, source=wrapped if isinstance(examples.source, dict) else wrapped[""])
    return replace(problem, forget=parts["forget"], retain=parts["retain"]), recordings


@contextlib.contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Global generators seeded inside the block, which must leave them as they are; put back afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    before = _generators()
    try:
        yield
        after = _generators()
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
    used = [library for library in before if before[library] != after[library]]
    assert not used, (
        f"the global generator of {used[0]} was used; draw from torch.Generator().manual_seed(problem.seed)"
    )


def _generators() -> dict[str, Any]:
    """The state of the global random generators."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpy = kind, np.asarray(keys).tobytes(), rest
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": numpy, "random": random.getstate()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A block in an empty current folder that must print nothing and leave no file there."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
        files = sorted(path.name for path in Path(folder).iterdir())
    assert not said.getvalue(), f"the method printed {said.getvalue()[:80]!r}; call problem.progress in its place"
    assert not files, f"the method wrote {files[0]!r}; leave files to the caller"


def portrait_of(model: nn.Module) -> dict[str, Any]:
    """All that must stay of a model: weights, gradients, modes, hooks, classes, attributes, by what to call them."""
    portrait: dict[str, Any] = {name: _bits(tensor) for name, tensor in tensors_of(model).items()}
    for name, parameter in model.named_parameters():
        portrait[f"requires_grad of {name}"] = parameter.requires_grad
        portrait[f"gradient of {name}"] = None if parameter.grad is None else _bits(parameter.grad)
    portrait |= {f"hooks of {name}": hooks for name, hooks in hooks_of(model).items()}
    for name, module in model.named_modules():
        label = name or "the model"
        portrait[f"class of {label}"] = id(type(module)), sorted(set(vars(type(module))) - {"__slotnames__"})
        portrait[f"parts of {label}"] = [*module._parameters, *module._buffers, *module._modules]
        own = {key: value for key, value in vars(module).items() if key not in HOOKS}
        portrait[f"attributes of {label}"] = sorted(own)
        portrait |= {f"{key} of {label}": _as_value(value) for key, value in own.items() if not _is_part(key)}
    return portrait


def _is_part(attribute: str) -> bool:
    return attribute in ("_parameters", "_buffers", "_modules")


def _as_value(value: Any) -> Any:
    """What tells whether an attribute is the same: the bits of a tensor, the text of anything else."""
    return _bits(value) if isinstance(value, Tensor) else repr(value)


def hooks_of(model: nn.Module) -> dict[str, int]:
    """The number of hooks of every module and parameter."""
    counts = {}
    for name, module in model.named_modules():
        counts[name or "the model"] = sum(len(getattr(module, kind, None) or ()) for kind in HOOKS)
    for name, parameter in model.named_parameters():
        counts[f"parameter {name}"] = sum(len(getattr(parameter, kind, None) or ()) for kind in PARAMETER_HOOKS)
    return counts


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that the state dict leaves out."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def same_bits(left: nn.Module, right: nn.Module) -> bool:
    first, second = tensors_of(left), tensors_of(right)
    return first.keys() == second.keys() and all(_bits(first[name]) == _bits(second[name]) for name in first)


def fingerprint(examples: Examples) -> tuple[Any, Any]:
    return _bits(examples.labels), _bits(examples.rows)
