"""The recipe that most published gradient methods share: stochastic gradient descent at one rate."""

from rasura.methods.contract import Problem
from rasura.training import Recipe


def constant_sgd(epochs: int, batch_size: int, learning_rate: float, problem: Problem) -> Recipe:
    """SGD with momentum 0.9 and weight decay 0.0005, the rate held, and the original's augmentation."""
    return Recipe(epochs, batch_size, "sgd", learning_rate, schedule="constant", augment=problem.recipe.augment)
