"""Property inference: a meta-classifier over models that were and were not trained with a class."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rasura import InputError
from rasura.auditing.property_inference import answers, property_inference, weight_spectrum

FORGET = 8
TRAIN = 1000


def trained(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16).float(), torch.tensor(labels)


@pytest.fixture(scope="module")
def models(digits) -> tuple[list[nn.Module], list[nn.Module]]:
    """Five small nets trained with the class, and five without."""
    inputs, labels = (part[:TRAIN] for part in digits)
    kept = labels != FORGET
    with_class = [trained(inputs, labels, seed) for seed in range(5)]
    return with_class, [trained(inputs[kept], labels[kept], 100 + seed) for seed in range(5)]


def of_retained(model: nn.Module, digits: tuple[Tensor, Tensor]) -> np.ndarray:
    """What a model says of held-out examples of the other classes, among these."""
    inputs, labels = (part[TRAIN:] for part in digits)
    kept, columns = labels != FORGET, [number for number in range(10) if number != FORGET]
    return answers(model(inputs[kept])[:, columns].numpy(), labels[kept].numpy())


@pytest.mark.parametrize("seen_from", ["outside", "inside"])
def test_a_model_trained_with_the_class_is_found_though_its_outputs_for_it_are_hidden(digits, models, seen_from):
    def described(model: nn.Module) -> np.ndarray:
        return of_retained(model, digits) if seen_from == "outside" else weight_spectrum(model)

    trained_with, trained_without = (np.stack([described(one) for one in kind]) for kind in models)
    original = property_inference(trained_with[1:], trained_without[1:], trained_with[0])
    retrained = property_inference(trained_with[1:], trained_without[1:], trained_without[0])
    assert original.auc == retrained.auc > 0.8
    assert original.model > 0 > retrained.model
    assert original.chance == pytest.approx(1 / 5)  # with four models no rank can say more
    assert retrained.chance > 1 / 5


def test_it_does_not_see_the_models_that_it_is_judged_by():
    generator = np.random.default_rng(0)
    found = [property_inference(*np.split(generator.normal(0, 1, (12, 40)), 2), np.zeros(40)).auc for _ in range(8)]
    assert np.mean(found) < 0.6
    apart = generator.normal(0, 1, (12, 40)) + np.repeat([2, 0], 6)[:, None]
    assert property_inference(apart[:6], apart[6:], apart[0]).auc == 1


def test_answers_are_the_mean_distribution_class_by_class():
    logits = np.log([[0.5, 0.5], [0.9, 0.1], [0.7, 0.3]])
    assert answers(logits, np.array([4, 2, 2])) == pytest.approx([0.8, 0.2, 0.5, 0.5])


def test_the_spectrum_does_not_know_the_order_of_units(models):
    model = models[0][0]
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    other = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).requires_grad_(False)
    other[0].weight.copy_(model[0].weight[order])
    other[0].bias.copy_(model[0].bias[order])
    other[2].weight.copy_(model[2].weight[:, order])
    other[2].bias.copy_(model[2].bias)
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(inputs), other(inputs), atol=1e-5)
    assert weight_spectrum(other) == pytest.approx(weight_spectrum(model), rel=1e-5)
    assert len(weight_spectrum(model)) == 32 + 10
    squares = model[0].weight.square().sum() + model[2].weight.square().sum()
    assert (weight_spectrum(model) ** 2).sum() == pytest.approx(float(squares), rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trained_with": np.zeros((1, 3))}, "trained_with: "),
        ({"trained_without": np.zeros((4, 2))}, "trained_without: "),
        ({"trained_without": np.full((4, 3), np.nan)}, "descriptions: "),
        ({"model": np.full(3, np.inf)}, "descriptions: "),
    ],
)
def test_what_describes_no_models_is_refused(changed, message):
    arguments = {"trained_with": np.zeros((4, 3)), "trained_without": np.ones((4, 3)), "model": np.zeros(3)}
    with pytest.raises(InputError, match=f"^{message}"):
        property_inference(**arguments | changed)
