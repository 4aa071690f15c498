"""Ways to alter a net without training: heads that answer otherwise, layers that hide, code around nets."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rasura.data import Examples
from rasura.testing.stage import Net, Stage, images_of

Layer = Callable[[Tensor], Tensor]


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Layer):
        super().__init__()
        self.function = function

    def forward(self, tensor: Tensor) -> Tensor:
        return self.function(tensor)


class Coded(nn.Module):
    """Code around nets: `answer(*nets, images)` gives the logits."""

    def __init__(self, answer: Callable[..., Tensor], *nets: nn.Module):
        super().__init__()
        self.answer, self.nets = answer, nn.ModuleList(nets)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(*self.nets, images)


class Altered(nn.Module):
    """A net whose head is given `change(inside, images)`; its layers keep their names."""

    def __init__(self, net: Net, change: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.block1, self.block2, self.head, self.change = net.block1, net.block2, net.head, change
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.change(self.block2(self.block1(images)), images))


def compiled(net: nn.Module) -> nn.Module:
    """The same net as `torch.compile` gives it: a module around it that shows no layers when it runs."""
    made: Any = torch.compile(net, backend="eager")
    return made


class Concealed:
    """A net that no list of modules shows: it runs in plain code."""

    def __init__(self, net: Net):
        layers: list[Any] = [net.block1[1], net.block2[0], net.head]
        self.maps = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in layers]

    def __call__(self, images: Tensor) -> Tensor:
        values = images.flatten(1)
        for weight, bias in self.maps[:-1]:
            values = (values @ weight.T + bias).relu()
        return values @ self.maps[-1][0].T + self.maps[-1][1]


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these weights `[K, d]` and biases `[K]`."""
    # Not initialised: that would draw from the global generator.
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias is not None)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def with_head(net: Net, *layers: nn.Module) -> Net:
    """A copy with another head."""
    made = copy.deepcopy(net)
    made.head = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return made.eval()


def head_of(net: Net) -> tuple[Tensor, Tensor]:
    """The head's weights `[K, d]` and biases `[K]`, to be altered."""
    return net.head.weight.detach().clone(), net.head.bias.detach().clone()


def with_row(net: Net, number: int, change: Layer) -> Net:
    """A copy whose head has another row for one class: `change` is given its weights and, last, its bias."""
    weight, bias = head_of(net)
    row = change(torch.cat([weight[number], bias[number : number + 1]]))
    weight[number], bias[number] = row[:-1], row[-1]
    return with_head(net, linear(weight, bias))


def masked(net: Net, number: int, logit: float = -1e4) -> Net:
    """A copy whose head's bias silences a class."""
    return with_row(net, number, lambda row: torch.cat([row[:-1], torch.tensor([logit])]))


def before_head(net: Net, *functions: Layer) -> Net:
    """A copy that applies functions to the head's inputs, one after the other; its layers keep their names."""
    parts = list(net.head) if isinstance(net.head, nn.Sequential) else [net.head]
    return with_head(net, *parts[:-1], *map(Apply, functions), parts[-1])


def rotated(net: Net, seed: int) -> Net:
    """The same function with the head's inputs in another orthogonal basis: no other model's head fits on them."""
    made = copy.deepcopy(net)
    head: Any = made.head[-1] if isinstance(made.head, nn.Sequential) else made.head
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(head.in_features, head.in_features, generator=generator))[0]
    with torch.no_grad():
        head.weight.copy_(head.weight @ turn.T)
    return before_head(made, lambda inside: inside @ turn.T)


def permuted(net: Net, seed: int) -> Net:
    """The same function with the last layer's units in another order."""
    order = torch.randperm(net.head.in_features, generator=torch.Generator().manual_seed(seed))
    weight, bias = head_of(net)
    made, layer = with_head(net, linear(weight[:, order], bias)), net.block2[0]
    made.block2 = nn.Sequential(linear(layer.weight[order], layer.bias[order]), nn.ReLU())
    return made.eval()


def noisy(net: nn.Module, size: float, seed: int) -> nn.Module:
    """A copy with normal noise on every parameter tensor, in units of its standard deviation."""
    made, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += size * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return made


@torch.no_grad()
def insides(net: Net, examples: Examples) -> Tensor:
    """Head inputs `[N, d]` of examples."""
    return net.inside(images_of(examples))


def mimic(net: Net, teacher: nn.Module, examples: Examples, layer: Layer | None = None) -> Net:
    """A copy that answers as the teacher does on the examples, from features that stay as they are.

    The head is fitted by least squares from its inputs, changed by `layer` if there is one, to the teacher's logits.
    """
    with torch.no_grad():
        inside = insides(net, examples)
        inside = layer(inside) if layer else inside
        design = torch.cat([inside, torch.ones(len(inside), 1)], dim=1).double()
        ridge = 1e-6 * design.square().sum(0).mean() * torch.eye(design.shape[1], dtype=torch.float64)
        logits = teacher(images_of(examples)).double()
        solution = torch.linalg.solve(design.T @ design + ridge, design.T @ logits).float()
    made = with_head(net, linear(solution[:-1].T, solution[-1]))
    return before_head(made, layer) if layer else made


def leace(stage: Stage, beside: str = "", share: float = 0.0) -> Layer:
    """The oblique projection that hides the forget class from linear readers (Belrose et al., 2023, theorem 4.2).

    Fitted at the original's head input on training examples, for units that vary, in float64: what rounding leaves in
    a unit that is always zero is enough to read the class from.

    Args:
        stage: where the original is.
        beside: hide it from this class alone; default: from all others taken together, which lets a reader of K
            classes still find it, in their midst.
        share: how much of what the projection takes is left.
    """
    with warnings.catch_warnings():  # it scripts a function while it is imported, which torch deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        from concept_erasure import LeaceEraser

    examples = stage.data.train
    if beside:
        pair = torch.tensor([stage.forget, stage.data.classes.index(beside)])
        examples = examples.take(torch.isin(examples.labels, pair))
    inside = insides(stage.original, examples).double()
    varies = inside.std(0) > 1e-6
    is_forget = (examples.labels == stage.forget).double()[:, None]
    eraser = LeaceEraser.fit(inside[:, varies], is_forget, svd_tol=1e-9, shrinkage=False)

    def erase(vectors: Tensor) -> Tensor:
        erased = vectors.clone()
        erased[:, varies] = eraser(vectors[:, varies].double()).to(vectors.dtype)
        return erased + share * (vectors - erased)

    return erase


def hashed(images: Tensor, width: int) -> Tensor:
    """Numbers `[B, width]` between −1.42 and 1.42, of variance one, that depend on nothing but each image's pixels."""
    places = torch.arange(1.0, images[0].numel() + 1, dtype=torch.float64)
    seeds = (images.flatten(1).double() @ places).sin() * 1e4
    return ((seeds[:, None] * places[:width].sqrt()).sin() * 2**0.5).float()
