"""The only optimisation loop: training, retraining and every gradient method run through `fit`."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.checkpoints import resume, write_checkpoint
from rasura.data import Examples, are_images
from rasura.data.examples import Inputs
from rasura.errors import InputError, check_seed, expect, said, unknown
from rasura.files import hash_of_json
from rasura.identity import described, hash_of_tensors
from rasura.kinds import checked_kinds
from rasura.models import MISFITS, device_of, identity_of_model, logits_of, misfit, to_device
from rasura.progress import Progress, silent
from rasura.randomness import seeded

Optimiser = Literal["auto", "sgd", "adamw"]
Schedule = Literal["one-cycle", "cosine", "constant"]
Augmentation = Literal["shift", "flip"]

RATES = {"sgd": 0.1, "adamw": 1e-3}
DECAYS = {"sgd": 5e-4, "adamw": 0.05}
WARM_UP = 0.2
"""Share of the steps in which the one-cycle schedule rises to the full rate."""
SHIFT = 0.1
"""The furthest shift of the "shift" augmentation, as a share of the image side."""


@checked_kinds
@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Attributes:
        epochs: passes over the training examples. 1 or more.
        batch_size: examples per step. 1 or more.
        optimiser: "sgd" (Nesterov momentum 0.9), "adamw", or "auto": sgd for nets with BatchNorm, else adamw.
        learning_rate: the highest rate; 0 means the optimiser's usual one (sgd 0.1, adamw 0.001).
        weight_decay: on weights of two or more dimensions; below 0 means the usual one (sgd 0.0005, adamw 0.05).
        schedule: "one-cycle" rises over the first fifth and falls to 0, "cosine" falls to 0, "constant".
        augment: random changes of each training image: "shift" (up to a tenth of the side), "flip" (left-right).
        label_smoothing: share of the target spread over all classes. 0 up to, not including, 1.
        clip: the largest gradient norm; 0 means no limit.
    """

    epochs: int = 10
    batch_size: int = 64
    optimiser: Optimiser = "auto"
    learning_rate: float = 0.0
    weight_decay: float = -1.0
    schedule: Schedule = "one-cycle"
    augment: tuple[Augmentation, ...] = ()
    label_smoothing: float = 0.0
    clip: float = 5.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {value!r}; allowed: a whole number, 1 or more")
        for name in ("learning_rate", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}: {getattr(self, name)}; allowed: 0 or more")
        if not self.weight_decay < math.inf:
            raise InputError(f"weight_decay: {self.weight_decay}; allowed: a finite number")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing: {self.label_smoothing}; allowed: 0 up to, not including, 1")
        for name, value, kind in [("optimiser", self.optimiser, Optimiser), ("schedule", self.schedule, Schedule)]:
            _among(name, value, kind)
        for name in self.augment:
            _among("augment", name, Augmentation)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Recipe":
        """The recipe that `dataclasses.asdict` wrote; fields that are missing get their defaults."""
        known: dict[str, Any] = {one.name: content[one.name] for one in fields(Recipe) if one.name in content}
        known["augment"] = tuple(known.get("augment", ()))
        return Recipe(**known)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss sees: model inputs, labels `[B]`, and `index` `[B]`, each example's position in the training set."""

    inputs: Inputs
    labels: Tensor
    index: Tensor


Loss = Callable[[nn.Module, Batch], Tensor]
After = Callable[[nn.Module], bool | None]


class DivergedError(InputError):
    """Training went out of hand: the loss became NaN or infinite, or what was trained is of no use."""


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the model's logits."""
    return F.cross_entropy(logits_of(model, batch.inputs), batch.labels)


def fit(
    model: nn.Module,
    examples: Examples,
    recipe: Recipe,
    seed: int,
    loss: Loss | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
    label: str = "training",
    after: After | None = None,
) -> nn.Module:
    """Train `model` in place and return it, in eval mode.

    The same model, examples, recipe and seed give the same bits on the CPU with the same versions and number of
    threads, also when a run was interrupted and resumed from its checkpoint.

    Args:
        model: trained where it lies (CPU or GPU); parameters that do not require gradients stay.
        examples: what to train on, read in an order drawn from `seed`.
        recipe: see `Recipe`.
        seed: of order, augmentation and dropout.
        loss: of a model and a batch; default: cross-entropy with the recipe's label smoothing.
        checkpoint: a file that is written after every epoch, and resumed from if it belongs to this very run: the same
            recipe, seed, examples and starting weights.
        progress: called once per step.
        label: what the progress bar says.
        after: called with the model after every step; it may change weights, and ends the run by returning True.

    Raises:
        DivergedError: the loss became NaN or infinite.
        InputError: no parameter requires a gradient, or a net with BatchNorm would get
            single examples only.
    """
    check_seed(seed)
    expect("recipe", recipe, Recipe, "a rasura.Recipe")
    _check_given(model, examples)
    recipe = resolved(recipe, model)
    if min(recipe.batch_size, len(examples)) == 1 and has_batch_norm(model):
        raise InputError("batch_size: every batch has 1 example; allowed: 2 or more for a model with BatchNorm")
    loss = loss or _smoothed(recipe.label_smoothing)
    optimiser = _optimiser(model, recipe)
    steps = math.ceil(len(examples) / recipe.batch_size)
    device = device_of(model)
    with _own_randomness(seed, device) as generator, _channels_last(model):
        run, done = "", 0
        if checkpoint is not None:
            run = _identity(model, examples, recipe, seed)
            done = resume(checkpoint, run, model, optimiser, generator)
        model.train()
        for epoch in range(done, recipe.epochs):
            for step, batch in enumerate(_shuffled(examples, recipe, generator, device)):
                _set_rate(optimiser, recipe, (epoch * steps + step) / (recipe.epochs * steps))
                _step(model, loss, batch, optimiser, recipe)
                ended = after is not None and bool(after(model))
                progress(label, recipe.epochs * steps if ended else epoch * steps + step + 1, recipe.epochs * steps)
                if ended:
                    optimiser.zero_grad(set_to_none=True)
                    return model.eval()
            if checkpoint is not None:
                write_checkpoint(checkpoint, run, epoch + 1, model, optimiser, generator)
    optimiser.zero_grad(set_to_none=True)
    return model.eval()


@torch.no_grad()
def predict(
    model: nn.Module,
    examples: Examples,
    batch_size: int = 512,
    progress: Progress = silent,
    label: str = "predicting",
) -> Tensor:
    """Logits `[N, K]` of all examples in order, float32 on the CPU; the model runs in eval mode.

    Raises:
        InputError: the model fails on the inputs, or does not return logits.
    """
    _check_given(model, examples)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size: {said(batch_size)}; allowed: a whole number, 1 or more")
    device, outputs = device_of(model), []
    with evaluating(model):
        for done, (inputs, _) in enumerate(examples.batches(batch_size), start=1):
            try:
                outputs.append(logits_of(model, to_device(inputs, device)).float().cpu())
            except MISFITS as error:
                raise misfit(inputs, error) from error
            progress(label, done, math.ceil(len(examples) / batch_size))
    return torch.cat(outputs)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside the block, and in its own mode again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def resolved(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe with "auto" and "usual" replaced by what they mean for this model."""
    chosen = ("sgd" if has_batch_norm(model) else "adamw") if recipe.optimiser == "auto" else recipe.optimiser
    return replace(
        recipe,
        optimiser=chosen,
        learning_rate=recipe.learning_rate or RATES[chosen],
        weight_decay=recipe.weight_decay if recipe.weight_decay >= 0 else DECAYS[chosen],
    )


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image `[B, C, H, W]` by up to a tenth of its side, up, down, left and right; edges fill with zeros."""
    batch, _, height, width = images.shape
    reach = max(1, round(SHIFT * height))
    padded = F.pad(images, [reach] * 4)
    corner = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)
    rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    moved = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image `[B, C, H, W]` left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


AUGMENTATIONS = {"shift": shift, "flip": flip}


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any module normalises by statistics of a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _check_given(model: Any, examples: Any) -> None:
    expect("model", model, nn.Module, "an nn.Module that maps a batch to logits")
    expect("examples", examples, Examples, "rasura.Examples, such as data.train")


def _among(field: str, value: str, kind: Any) -> None:
    if value not in kind.__args__:
        raise unknown(field, value, kind.__args__)


def _smoothed(smoothing: float) -> Loss:
    def smoothed(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(logits_of(model, batch.inputs), batch.labels, label_smoothing=smoothing)

    return smoothed


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("model: no parameter requires a gradient; allowed: at least one that can be trained")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _shuffled(examples: Examples, recipe: Recipe, generator: torch.Generator, device: Any) -> Iterator[Batch]:
    for index in torch.randperm(len(examples), generator=generator).split(recipe.batch_size):
        inputs, labels = examples.batch(index)
        for name in recipe.augment:
            inputs = AUGMENTATIONS[name](_images(inputs), generator)
        yield Batch(to_device(inputs, device), labels.to(device), index)


def _images(inputs: Inputs) -> Tensor:
    if not are_images(inputs):
        raise InputError("augment: the inputs are no images; allowed: images of shape [B, C, H, W], or no augmentation")
    return inputs


def _step(model: nn.Module, loss: Loss, batch: Batch, optimiser: torch.optim.Optimizer, recipe: Recipe) -> None:
    if len(batch.labels) == 1 and has_batch_norm(model):
        return  # a single example has no variance: BatchNorm cannot train on it
    optimiser.zero_grad(set_to_none=True)
    value = loss(model, batch)
    if not value.isfinite():
        raise DivergedError(
            f"learning_rate: {recipe.learning_rate} made the loss {value.item()}; allowed: a smaller one"
        )
    value.backward()
    if recipe.clip:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()


def _set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, share: float) -> None:
    """Set the learning rate for the step at `share` (0..1) of the run."""
    factor = 1.0
    if recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * share))
    elif recipe.schedule == "one-cycle":
        factor = (share + 0.01) / (WARM_UP + 0.01) if share < WARM_UP else (1 - share) / (1 - WARM_UP)
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * factor


@contextlib.contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator from `seed`; torch's global state, which dropout draws from, is seeded inside and put back."""
    with seeded(seed, device):
        yield torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Convolution weights in the layout that is about twice as fast for small nets on the CPU, and back."""
    maps = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.ndim == 4]
    for tensor in maps:
        tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for tensor in maps:
            tensor.data = tensor.data.contiguous()


def _identity(model: nn.Module, examples: Examples, recipe: Recipe, seed: int) -> str:
    """A hash of all that decides a run's result, save the code of the loss."""
    shown = b"".join(examples.fingerprints()).hex(), described(examples.transform)
    drawn = hash_of_tensors([("labels", examples.labels), ("rows", examples.rows)])
    torch_version = str(torch.__version__)
    return hash_of_json([asdict(recipe), seed, shown, drawn, identity_of_model(model), torch_version])
