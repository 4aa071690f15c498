"""The recipe that most published gradient methods share: stochastic gradient descent at one rate."""

from rasura.methods.contract import Problem
from rasura.training import Recipe


def constant_sgd(
    epochs: int, batch_size: int, learning_rate: float, problem: Problem, weight_decay: float = 5e-4
) -> Recipe:
    """SGD with momentum 0.9, the rate held, and the original's augmentation."""
    augment = problem.recipe.augment
    return Recipe(epochs, batch_size, "sgd", learning_rate, weight_decay, schedule="constant", augment=augment)
