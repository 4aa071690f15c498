"""The last blocks of a net, and training of nothing else."""

import torch
from torch import Tensor, nn

from rasura.activations import anatomy
from rasura.data.examples import Inputs
from rasura.training import Batch, Loss, cross_entropy


def last_blocks(model: nn.Module, inputs: Inputs, count: int) -> tuple[tuple[str, ...], set[str]]:
    """The last `count` of the net's stages and its head (which counts as one), and the state dict's names in them.

    What belongs to no stage (a norm between the last stage and the head, say) goes with the last blocks if it is
    registered after the first of them. All names, if there are no more than `count` blocks.
    """
    found, names = anatomy(model, inputs), list(model.state_dict())
    blocks = (*found.stages, found.head)
    if count >= len(blocks):
        return blocks, set(names)
    earlier, last = blocks[:-count], blocks[-count:]
    first = min(at for at, name in enumerate(names) if _is_in(name, last[:1]))
    free = {name for name in names[first:] if not _is_in(name, earlier)}
    return last, free | {name for name in names if _is_in(name, last)}


def freeze_all_but(model: nn.Module, names: set[str], then: Loss = cross_entropy) -> Loss:
    """Stop the gradients of all other parameters; a loss, `then`, that holds the others' running statistics too."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    still = [module for name, module in model.named_modules() if _holds_frozen(module, name, names)]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        for module in still:  # `fit` has put the whole net into training mode
            module.training = False
        return then(model, batch)

    return loss


@torch.no_grad()
def copy_all_but(source: nn.Module, target: nn.Module, names: set[str]) -> None:
    """Copy every parameter and buffer of the state dict whose name is not among `names`."""
    kept = target.state_dict()
    for name, tensor in source.state_dict().items():
        if name not in names:
            kept[name].copy_(tensor)


def _is_in(name: str, blocks: tuple[str, ...]) -> bool:
    return any(not block or name.startswith(f"{block}.") for block in blocks)


def _holds_frozen(module: nn.Module, name: str, names: set[str]) -> bool:
    own = [*module._parameters, *module._buffers]
    return any((f"{name}.{part}" if name else part) not in names for part in own if getattr(module, part) is not None)
