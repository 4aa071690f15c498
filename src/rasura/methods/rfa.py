"""Residual feature alignment: low-rank adapters that do nothing to retained examples and lead the others away."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import nn

from rasura.activations import Anatomy, Point, anatomy, is_operator
from rasura.errors import InputError, unknown
from rasura.kinds import checked_kinds
from rasura.methods._alignment import Alignment, Goals, Target, Teacher, endless, summary
from rasura.methods._strength import Strength
from rasura.methods._unseen import said_unseen
from rasura.methods.contract import Problem, Reads
from rasura.models import hash_of_model
from rasura.models.adapters import (
    adapters_off,
    keep_adapter,
    largest_rank,
    merged,
    takes_adapter,
    weights_of_adapter,
    with_new_adapter,
)
from rasura.training import Recipe, fit

if TYPE_CHECKING:
    from peft import PeftModel

Answers = Literal["auto", "masked", "partner", "unseen"]

EVERY = "all"
USUAL_RANK = 8
FOR_CLASSES: dict[str, Any] = {"gamma": 1.0, "answer_weight": 1.0, "batch_size": 64, "forget_batch_size": 32}
FOR_SAMPLES: dict[str, Any] = {"gamma": 5.0, "answer_weight": 10.0, "batch_size": 32, "forget_batch_size": 64}
MOVED = 0.5
"""Residual norm on retained examples, as a share of the features' norm, above which a warning is given."""


@checked_kinds
@dataclass(frozen=True)
class Rfa:
    """Low-rank adapters whose contribution is zero on retained examples and a shift on those to forget.

    Qin, Zhu, Wang and Zhou (2024, "Machine unlearning on pre-trained models by residual feature alignment using LoRA",
    arXiv 2411.08443). What a layer says with the adapters is what it said before, h⁰, and a residual r = h − h⁰. The
    loss (see `Alignment`) makes r vanish on retained examples and lead from h⁰ to the features of retained examples
    on those to forget. The teacher is the student with its adapters off: there is no second copy of the weights (but
    for that of the guess, see `unseen`, which is gone before the adapters come). In the end the adapters are folded
    into the weights.

    Nothing is normalised by a batch and nothing dropped while the adapters learn: BatchNorm keeps the original's
    running statistics and its scale and shift. So a new adapter's residual is exactly 0, the folded model is the
    trained one, and the statistics still fit, as the features of retained examples stay.

    Adapters are peft's, on Linear, Conv and Hugging Face's Conv1D layers that run as modules. Grouped convolutions and
    tied weights get none, nor do the projections inside `nn.MultiheadAttention`; the record says which had none.

    Differs: the loss is not published in what we have; ours weighs all layers alike, each relative to ‖h⁰‖². For
    classes, the forgotten ones are also taken out of the answers that retained examples keep, as in a retrained model.

    Attributes:
        rank: of each adapter; layers with fewer inputs or outputs get as many as they have. 0 means 8.
        layers: names of layers that get adapters, or of parts that hold some; all means every layer that can, none
            those from the middle stage on: what earlier ones say of retained examples then stays bit for bit.
        aligned: names of modules whose outputs are aligned; none means the model's stages and the input of its head.
        target: where the features of an example to forget move: to those of a random retained example of the batch
            (retain-sample), to the mean of the batch's retained examples (retain-centroid), or to the nearest of these
            at each layer (nearest-retain). For samples, only retained examples of the class that they are to be
            answered with are taken. auto: retain-sample for classes, nearest-retain for samples.
        answers: what is to be said of an example to forget: what the model said without the forgotten classes
            (masked, for classes), what it says of the retained example that the features move to (partner; with
            retain-centroid the mean prediction for its class), or what a net says that started from the
            original's shrunk weights and learned for `unseen_steps` on the retained examples alone (unseen). auto:
            masked for classes, unseen for samples.
        gamma: weight of the examples to forget beside the retained ones; 0 means 1 for classes, 5 for samples.
        answer_weight: of the answers beside the features; 0 means 1 for classes, 10 for samples, whose features hardly
            differ from what they are to be.
        steps: of Adam (one-cycle schedule). 1 or more.
        learning_rate: the highest. Above 0.
        batch_size: retained examples per step; 0 means 64 for classes, 32 for samples.
        forget_batch_size: examples to forget per step; 0 means 32 for classes, 64 for samples.
        unseen_steps: with unseen answers, at least so many, in whole passes over the retained examples and no more of
            these than the recipe has. 1 or more.
        keep_adapter: also store the adapter on its own, in PEFT's format, in the folder adapter/ beside the weights.
    """

    rank: int = 0
    layers: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    target: Literal["auto", Target] = "auto"
    answers: Answers = "auto"
    gamma: float = 0.0
    answer_weight: float = 0.0
    steps: int = 100
    learning_rate: float = 0.02
    batch_size: int = 0
    forget_batch_size: int = 0
    unseen_steps: int = 100
    keep_adapter: bool = False

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("gamma", 0.01, 100.0)

    def __post_init__(self) -> None:
        least = {"rank": 0, "batch_size": 0, "forget_batch_size": 0, "steps": 1, "unseen_steps": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise InputError(f"{name}: {value!r}; allowed: a whole number, {lowest} or more")
        for name in ("gamma", "answer_weight"):
            if not 0 <= getattr(self, name) < torch.inf:
                raise InputError(f"{name}: {getattr(self, name)}; allowed: 0 or more")
        if not 0 < self.learning_rate < torch.inf:
            raise InputError(f"learning_rate: {self.learning_rate}; allowed: above 0")
        for name, known in (("target", ("auto", *get_args(Target))), ("answers", get_args(Answers))):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        bare = is_operator(problem.model)
        if bare and self.keep_adapter:
            raise InputError("keep_adapter: the model is a single layer; allowed: a net of several modules")
        adapted, record = self.adapt(problem)
        config, weights = adapted.peft_config["default"], weights_of_adapter(adapted)
        model = merged(adapted)
        if self.keep_adapter:
            keep_adapter(model, config, weights, hash_of_model(problem.model))
        return (model.get_submodule("0") if bare else model), record

    def adapt(self, problem: Problem) -> "tuple[PeftModel, dict[str, Any]]":
        """A copy of the model with trained adapters on it, and the record; see `rasura.models.adapters`."""
        net = problem.copy_of_model().eval()
        if is_operator(net):  # peft puts adapters in the place of a net's parts
            net = nn.Sequential(net)
        inputs, _ = problem.retain.batch(torch.arange(min(2, len(problem.retain))))
        parts = anatomy(net, inputs)
        ranks, points = self._ranks(net, parts), self._points(net, parts)
        without = [name for name in _linear_maps(net) if name not in ranks]
        adapted = with_new_adapter(net, ranks, problem.seed)
        loss = self.loss(problem, points, _itself(adapted))
        self.train(net, problem, loss)
        trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
        own = sum(one.numel() for one in problem.model.parameters())
        record = {
            "trainable": trained,
            "trainable_share": trained / own,
            "ranks": ranks,
            "without_adapter": without,
            "residuals": summary(loss.trace, points),
        }
        return adapted, record | {"warnings": list(_alarms(record["residuals"]))}

    def loss(self, problem: Problem, points: tuple[Point, ...], teacher: Teacher) -> Alignment:
        """What is minimised; the teacher may also be another model (full fine-tuning with the same losses)."""
        mine = self.resolved(problem)
        rest = mine.gamma, mine.answer_weight, mine.forget_batch_size, teacher, problem.seed
        return Alignment(points, problem.forget, self._goals(problem), *rest)

    def train(self, net: nn.Module, problem: Problem, loss: Alignment) -> None:
        """Minimise the loss in whatever of the net requires gradients."""
        batch_size = self.resolved(problem).batch_size
        rows = endless(len(problem.retain), batch_size, torch.Generator().manual_seed(problem.seed))
        drawn = problem.retain.take(torch.cat([next(rows) for _ in range(self.steps)]))
        recipe = Recipe(
            epochs=1,
            batch_size=batch_size,
            optimiser="adamw",
            learning_rate=self.learning_rate,
            weight_decay=0,
            augment=problem.recipe.augment,
        )
        fit(net, drawn, recipe, problem.seed, loss, progress=problem.progress, label="rfa")

    def resolved(self, problem: Problem) -> "Rfa":
        """With the usual values for classes or for samples where a setting is 0."""
        usual = FOR_CLASSES if problem.forget_classes else FOR_SAMPLES
        return replace(self, **{name: value for name, value in usual.items() if not getattr(self, name)})

    def _ranks(self, net: nn.Module, parts: Anatomy) -> dict[str, int]:
        """The rank of the adapter of each layer that gets one."""
        able = [name for name in dict.fromkeys(parts.operators) if takes_adapter(net, name)]
        named = () if self.layers == (EVERY,) else self.layers or _deeper(parts)
        for name in self.layers if named else ():
            if not any(_inside(one, name) for one in able):
                raise unknown("layers", name, _parts_with(able))
        chosen = [one for one in able if not named or any(_inside(one, name) for name in named)]
        if not chosen:
            raise InputError("model: no layer can have an adapter; allowed: Linear or Conv layers without groups")
        limits = {name: largest_rank(net.get_submodule(name)) for name in chosen}
        widest = max(limits, key=limits.__getitem__)
        if self.rank > limits[widest]:
            raise InputError(f"rank: {self.rank}; allowed: 1 to {limits[widest]}, which {widest} can have at most")
        return {name: min(self.rank or USUAL_RANK, limit) for name, limit in limits.items()}

    def _points(self, net: nn.Module, parts: Anatomy) -> tuple[Point, ...]:
        modules = [name for name, _ in net.named_modules() if name]
        for name in self.aligned:
            if name not in modules:
                raise unknown("aligned", name, modules)
        return tuple(Point(name) for name in self.aligned) or parts.points

    def _goals(self, problem: Problem) -> Goals:
        whole = bool(problem.forget_classes)
        answers = self.answers if self.answers != "auto" else "masked" if whole else "unseen"
        target = self.target if self.target != "auto" else "retain-sample" if whole else "nearest-retain"
        if answers == "masked":
            problem.require_classes("rfa with masked answers")
        closed = (*problem.forget_classes, *problem.gone)
        own = None if whole else problem.forget.labels
        if answers != "unseen":
            return Goals(target, closed, borrowed=answers == "partner", partners=own)
        said = said_unseen(problem, self.unseen_steps, closed)
        return Goals(target, closed, said, partners=None if whole else said.argmax(1))


def _itself(adapted: "PeftModel") -> Teacher:
    """The student as its own teacher: its adapters are off."""

    @contextmanager
    def teacher(student: nn.Module) -> Iterator[nn.Module]:
        with adapters_off(adapted):
            yield student

    return teacher


def _alarms(residuals: dict[str, Any]) -> Iterator[str]:
    for layer, kept in zip(residuals["layers"], residuals["retain"], strict=True):
        if kept[-1] > MOVED:
            yield f"retained features moved by {kept[-1]:.0%} of their norm at {layer}; try a lower gamma"
    last = residuals["distance"][-1]
    if last[-1] > last[0]:
        where = residuals["layers"][-1]
        yield f"features to forget are farther from their goal at {where} than at the start; try more steps"


def _deeper(parts: Anatomy) -> tuple[str, ...]:
    """The operators from the middle stage on; all of a net without stages."""
    middle = parts.stages[len(parts.stages) // 2 :][:1]
    first = next((at for at, name in enumerate(parts.operators) if middle and _inside(name, middle[0])), 0)
    return parts.operators[first:]


def _linear_maps(net: nn.Module) -> list[str]:
    """Whatever multiplies by a learned matrix, also where no hook sees it."""
    return [name for name, one in net.named_modules() if is_operator(one) or isinstance(one, nn.MultiheadAttention)]


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _parts_with(names: list[str]) -> list[str]:
    """The names, and those of all parts that hold them."""
    pieces = [name.split(".") for name in names]
    return sorted({".".join(one[:depth]) for one in pieces for depth in range(1, len(one) + 1)})
