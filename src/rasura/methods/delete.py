"""DELETE: distil the original's own outputs with the forgotten class taken out. Reads no retained example."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from rasura.kinds import checked_kinds
from rasura.methods._losses import Statistics, check_statistics, frozen, masked_distillation, with_statistics
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class Delete:
    """Teach, on the examples to forget, what the original says of all other classes.

    Zhou et al. (2025, "Decoupled distillation to erase", CVPR): KL(softmax(masked logits of the original) ‖ student),
    where the mask puts minus infinity at the forgotten class.

    Differs: all classes of the request are masked, beside the example's own (so a sample request masks only the
    latter). Rate and epochs are those that the authors' repository recommends for a ResNet-18 on CIFAR-10, with
    batches of 128; they tune the rate per data set. Gradients are clipped at norm 5.

    BatchNorm's running statistics follow the examples to forget alone while it runs, as in the papers' own training
    mode; on a net with BatchNorm that by itself costs accuracy on all classes. `statistics="hold"` keeps them.

    Attributes:
        epochs: passes over the examples to forget. 1 or more.
        learning_rate: of SGD with momentum 0.9 and weight decay 0.0005; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        statistics: of BatchNorm, "follow" the examples to forget (the papers' training mode) or "hold" still.
    """

    epochs: int = 20
    learning_rate: float = 1e-3
    batch_size: int = 64
    statistics: Statistics = "follow"

    reads: ClassVar[tuple[Reads, ...]] = ("forget",)
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-5, 1e-1, otherwise={"statistics": "hold"})

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        check_statistics(self.statistics)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model = problem.copy_of_model()
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem)
        masked = (*problem.forget_classes, *problem.gone)
        loss = with_statistics(self.statistics, masked_distillation(frozen(problem.model), masked))
        fit(model, problem.forget, recipe, problem.seed, loss, progress=problem.progress, label="delete")
        return model, {"masked": list(masked)}
