"""CNR: class-specific neuron reset, by synthetic images that avoid the neurons which respond to a class."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rasura.activations import Point
from rasura.data import Examples
from rasura.errors import InputError, unknown
from rasura.kinds import checked_kinds
from rasura.methods._blocks import freeze_all_but, last_blocks
from rasura.methods._counterfactuals import Objective, synthesise
from rasura.methods._examples import joined, some_of_each
from rasura.methods._generator import Pixels, check_images, trained_pair
from rasura.methods._head import head_of
from rasura.methods._losses import frozen
from rasura.methods._pictures import thumbnails
from rasura.methods._reset import (
    Reset,
    Watched,
    likely_labels,
    nearest_labels,
    thinned,
    trainable,
    uniform_labels,
)
from rasura.methods._retire import retire
from rasura.methods._selectivity import Detected, Selection, Units, detect, profile, representative_stages
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import device_of
from rasura.training import Recipe, cross_entropy, fit, has_batch_norm

Variant = Literal["swift", "published"]
Labels = Literal["nearest", "likely", "uniform"]
Scope = Literal["all", "head"]
FEW = 50
"""Images to forget below which a generator learns little."""
SHOWN = 8
"""Synthetic images that the record keeps."""
UNSTEADY = 0.25
"""Share of the learning rate that nets without BatchNorm take: at the whole of it a ViT forgets everything."""


@checked_kinds
@dataclass(frozen=True)
class Cnr:
    """Find a class's neurons, synthesise images that avoid them, and fine-tune the net until it does without them.

    1. Detection: the centroid of each class at `stages` stages of the net, in every coordinate (channel, row, column;
       feature of a token). Selectivity is the forgotten class's centroid less the mean of the retained ones'; the
       largest `units` coordinates are forget-selective, the smallest retain-selective.
    2. Synthesis: a generator and a discriminator learn the images to forget. Latent codes of `images` images are then
       moved by Adam so that forget-selective units fall silent, retain-selective ones respond, and the images look real
       and smooth (eq. 5 and 6).
    3. Reset: fine-tuning on these under labels drawn evenly from the retained classes, on retained examples under their
       own, with a penalty on the distance from the weights at its start (eq. 7); then on retained examples alone.

    Source: "Beyond masking and avoidance: true unlearning" (anonymous, under review), algorithm 1, eq. 1 to 7.
    `Cnr.published()` has its settings and form.
    Differs: by default ("swift"), the images to forget themselves join the synthetic ones in the reset, all under the
    retained class whose images are nearest at the last stage, and are drawn there to where these lie; the head's
    weights of the forgotten classes are the mean of the others' before it and after; fewer steps and examples are used,
    at a higher rate that rises and falls. Synthetic images avoid the class's neurons: trained on them alone, a net
    keeps naming the class; under even labels, images of the class get answers so unsure that a shift of its bias finds
    them; without the pull, features still tell the class apart (docs/cnr.md). In both variants: gamma, batch size and
    the nets' widths are not published; one generator serves all forgotten classes, and units are chosen for each;
    "gradient" selection and the reset without synthesis, which then relabels the images to forget, follow no formula of
    the paper; generator and discriminator take one step of Adam together; images are in −1..1; weight decay is
    decoupled; gradients are clipped at norm 5.

    Attributes:
        variant: "swift" or "published": what is trained on and towards what, as above.
        selection: how units are chosen: "mean-activation", "gradient" of the class's logit, or "random".
        stages: stages of the net, evenly spaced, the last always. 1 or more.
        units: K, selective coordinates per stage, class and side. 1 or more; at most half of a stage's are taken.
        examined: examples of each class, at most, that centroids are computed from. 1 or more.
        synthesis: whether images are synthesised; without, the images to forget are relabelled.
        images: B, synthetic images. 2 or more.
        generator_epochs: passes over the images to forget when generator and discriminator are trained. 1 or more.
        generator_rate: their learning rate. Above 0; a tenth of it is tried if they diverge.
        generator_features: channels of the generator's finest map. 1 or more.
        steps: steps on the latent codes. 0 or more; with 0 they stay as drawn.
        latent_rate: learning rate of the codes. Above 0.
        alpha: weight of exciting retain-selective units over silencing forget-selective ones. 0 or more.
        realism: weight of looking real. 0 or more.
        smoothness: weight of total variation, summed over an image's pixels. 0 or more.
        retained: retained examples of each class, at most, that are trained on. 2 or more.
        epochs: passes over them in the reset. 1 or more.
        settle: passes over them alone afterwards. 0 or more.
        learning_rate: of Adam in the reset (weight decay 0.0001); "swift" takes a quarter of it for nets without
            BatchNorm, such as transformers. Above 0.
        calm: learning rate afterwards, as a share of it. Above 0.
        batch_size: retained examples per step, to which `share` times as many counterfactuals are added. 2 or more.
        share: counterfactuals per retained example of a step. Above 0.
        labels: of the counterfactuals: "nearest", the retained class whose examples are nearest at the last stage,
            "likely", the one whose logit is largest in the original, or "uniform", drawn evenly.
        gamma: weight of half the squared distance from the weights that the reset starts from. 0 or more.
        pull: for "swift" and the whole net, weight of how far the counterfactuals under a label lie, in the pooled
            output of the last stage (`rasura.activations.pooled`), from the retained examples of that class. 0 or more.
        scope: what may change: "all", or the "head" alone, as where a backbone is frozen.
        store: folder in which generators are kept, so that the same images are not learned twice; empty keeps none.
    """

    variant: Variant = "swift"
    selection: Selection = "mean-activation"
    stages: int = 4
    units: int = 12
    examined: int = 100
    synthesis: bool = True
    images: int = 64
    generator_epochs: int = 5
    generator_rate: float = 1e-3
    generator_features: int = 16
    steps: int = 15
    latent_rate: float = 0.01
    alpha: float = 1.5
    realism: float = 0.1
    smoothness: float = 0.01
    retained: int = 640
    epochs: int = 1
    settle: int = 1
    learning_rate: float = 2e-3
    calm: float = 0.5
    batch_size: int = 32
    share: float = 1.0
    labels: Labels = "nearest"
    gamma: float = 1e-3
    pull: float = 3.0
    scope: Scope = "all"
    store: str = ""

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-4, 3e-2)

    def __post_init__(self) -> None:
        for name, kind in [("variant", Variant), ("selection", Selection), ("labels", Labels), ("scope", Scope)]:
            if getattr(self, name) not in kind.__args__:
                raise unknown(name, getattr(self, name), kind.__args__)
        least = {"images": 2, "retained": 2, "batch_size": 2, "steps": 0, "settle": 0}
        least |= dict.fromkeys(("stages", "units", "examined", "generator_epochs", "generator_features", "epochs"), 1)
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise InputError(f"{name}: {value!r}; allowed: a whole number, {bound} or more")
        for name in ("alpha", "realism", "smoothness", "gamma", "pull"):
            if not 0 <= getattr(self, name) < torch.inf:
                raise InputError(f"{name}: {getattr(self, name)}; allowed: 0 or more")
        for name in ("generator_rate", "latent_rate", "learning_rate", "calm", "share"):
            if not 0 < getattr(self, name) < torch.inf:
                raise InputError(f"{name}: {getattr(self, name)}; allowed: a finite number above 0")

    @staticmethod
    def published() -> "Cnr":
        """The paper's form with its settings: 50 epochs, 500 steps, then 10 + 5 passes over all retained examples."""
        everything = 10**9
        return Cnr(
            variant="published",
            examined=everything,
            generator_epochs=50,
            steps=500,
            retained=everything,
            epochs=10,
            settle=5,
            learning_rate=1e-4,
            calm=1.0,
            batch_size=64,
            labels="uniform",
            pull=0.0,
        )

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        classes, forgotten = problem.require_classes("cnr"), self._forgotten(problem)
        left = problem.classes - len({*classes, *problem.gone})
        if left < 2:
            raise InputError(f"classes: {left} would be left; allowed: 2 or more")
        original = frozen(problem.model)
        seen = joined(*(some_of_each(part, self.examined, problem.seed) for part in (problem.forget, problem.retain)))
        points = representative_stages(original, forgotten[:2], self.stages)
        found = detect(original, seen, points, classes, self.selection, self.units, problem.seed, problem.progress)
        synthetic, made = self._synthesised(problem, original, found.units, forgotten)
        kept = some_of_each(problem.retain, self.retained, problem.seed)
        model, courses = self._reset(problem, found, self._counterfactuals(synthetic, forgotten), kept)
        record = {
            "units": profile(found, model, seen, classes),
            "generator": made,
            "retained_examples": len(kept),
            "learning_rate": self._rate(model),
            "curves": courses,
            "warnings": _warnings(self, found.units, len(forgotten)),
        }
        return model, record

    def _forgotten(self, problem: Problem) -> Tensor:
        """The images to forget, as the model takes them."""
        inputs, _ = problem.forget.batch(torch.arange(len(problem.forget)))
        return check_images(inputs, self.synthesis)

    def _synthesised(
        self, problem: Problem, original: nn.Module, units: dict[Point, Units], forgotten: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Synthetic images as the model takes them, and what the record says of them; none without synthesis."""
        if not self.synthesis:
            return forgotten[:0], {}
        pixels, device = Pixels.of(forgotten), device_of(problem.model)
        trained = trained_pair(
            pixels.squeezed(forgotten),
            self.generator_features,
            self.generator_epochs,
            self.generator_rate,
            problem.seed,
            self.store,
            device,
            problem.progress,
        )
        weights = self.alpha, self.realism, self.smoothness
        objective = Objective(original, trained.pair.discriminator, pixels, units, *weights)
        images, course = synthesise(
            trained.pair, objective, self.images, self.steps, self.latent_rate, problem.seed, problem.progress
        )
        made = {
            "stored": trained.stored,
            "restarts": trained.restarts,
            "losses": [list(pair) for pair in trained.losses],
            "objective": thinned(course),
            "pictures": thumbnails(images[:SHOWN]),
        }
        return pixels.stretched(images), made

    def _counterfactuals(self, synthetic: Tensor, forgotten: Tensor) -> Tensor:
        """What is trained on under other labels."""
        if self.variant == "published" and self.synthesis:
            return synthetic
        return torch.cat([synthetic, forgotten])

    def _reset(
        self, problem: Problem, found: Detected, counterfactuals: Tensor, kept: Examples
    ) -> tuple[nn.Module, dict[str, list[float]]]:
        """Reset and stabilisation: the new model, and the loss at their steps."""
        model, progress = problem.copy_of_model(), problem.progress
        draw = torch.Generator().manual_seed(problem.seed)
        first, second = torch.randint(2**31, (2,), generator=draw).tolist()
        names = last_blocks(model, counterfactuals[:2], 1)[1] if self.scope == "head" else set(model.state_dict())
        absent = tuple(sorted({*problem.forget_classes, *problem.gone}))
        head = head_of(model, counterfactuals[:2], problem.classes) if self.variant == "swift" else None
        if head is not None:
            retire(head, problem.classes, absent)
        freeze_all_but(model, names)
        last = list(found.units)[-1]
        reset = Reset(
            counterfactuals,
            self._labels(problem, counterfactuals, kept, last),
            self.share,
            trainable(model),
            self.gamma,
            draw,
            last if self.pull and self.variant == "swift" and self.scope == "all" else None,
            self.pull,
            problem.recipe.augment,
        )
        plain = Watched(cross_entropy)
        loss = freeze_all_but(model, names, reset)
        rate = self._rate(model)
        recipe = self._recipe(problem, self.epochs, rate)
        fit(model, kept, recipe, first, loss, progress=progress, label="cnr: reset")
        if self.settle:
            loss = freeze_all_but(model, names, plain)
            recipe = self._recipe(problem, self.settle, rate * self.calm)
            fit(model, kept, recipe, second, loss, progress=progress, label="cnr: settle")
        if head is not None:  # what training left in its rows tells the class apart after a shift of the bias
            retire(head, problem.classes, absent)
        return model.requires_grad_(True), {"reset": thinned(reset.course), "settle": thinned(plain.course)}

    def _labels(self, problem: Problem, counterfactuals: Tensor, kept: Examples, stage: Point) -> Tensor:
        """What the counterfactuals are to be taken for."""
        if self.labels == "nearest":
            return nearest_labels(problem.model, counterfactuals, kept, stage)
        retained = problem.retain.labels.unique()
        if self.labels == "likely":
            return likely_labels(problem.model, counterfactuals, retained)
        return uniform_labels(len(counterfactuals), retained, problem.seed)

    def _rate(self, model: nn.Module) -> float:
        steady = self.variant == "published" or has_batch_norm(model)
        return self.learning_rate * (1 if steady else UNSTEADY)

    def _recipe(self, problem: Problem, epochs: int, rate: float) -> Recipe:
        schedule = "constant" if self.variant == "published" else "one-cycle"
        return Recipe(epochs, self.batch_size, "adamw", rate, 1e-4, schedule, problem.recipe.augment)


def _warnings(method: Cnr, units: dict[Point, Units], images: int) -> list[str]:
    """Lines that a person should read."""
    capped = [point.module for point, one in units.items() if one.per_class.shape[1] < method.units]
    found = []
    if capped:
        found.append(f"units: {method.units} is more than half of the units of {', '.join(capped)}; half were taken")
    if images < FEW and method.synthesis:
        found.append(f"few images: the generator learned from {images} images to forget; {FEW} or more are advised")
    return found
