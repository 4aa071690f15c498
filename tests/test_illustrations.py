"""t-SNE maps and Grad-CAM: known answers, the same bits twice, and a model that is left as it was."""

import base64
import importlib.util
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from rasura.auditing.illustrations import MOST_FORGET, MOST_POINTS, heat_maps, spatial_stage, stage_maps
from rasura.errors import InputError
from rasura.models import build_model

CLASSES = 4


def clouds(count: int, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Well separated clouds, one per class, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    return 20 * torch.eye(CLASSES, width)[labels] + torch.randn(count, width, generator=generator), labels


def maps(features: Any, labels: Tensor, layers: tuple[str, ...] = ("last",), **changes: Any) -> dict[str, Any]:
    return stage_maps(layers, features, labels, labels == 1, **{"seed": 0} | changes)


def test_neighbours_in_the_net_are_neighbours_on_the_map() -> None:
    vectors, labels = clouds(160)
    made = maps({"original": [vectors]}, labels)
    points, shown = np.array(made["points"]["original"][0]), np.array(made["labels"])
    near = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(return_distance=False)
    assert (shown[near] == shown[:, None]).mean() > 0.95


def test_points_fill_the_unit_square_with_two_decimals() -> None:
    vectors, labels = clouds(80)
    points = np.array(maps({"original": [vectors]}, labels)["points"]["original"][0])
    assert points.min() >= 0 and points.max() <= 1
    assert np.ptp(points, axis=0).max() == 1
    assert (points == points.round(2)).all()


def test_the_same_bits_twice_whatever_the_threads_and_the_global_seed() -> None:
    vectors, labels = clouds(60)
    first = maps({"original": [vectors], "model": [vectors.flip(1)]}, labels)
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    assert maps({"original": [vectors], "model": [vectors.flip(1)]}, labels) == first
    assert (np.random.get_state()[1] == before).all()


def test_a_turned_model_has_the_same_map() -> None:
    """t-SNE knows distances only; what it leaves open is settled by turning maps onto each other."""
    vectors, labels = clouds(60)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    made = maps({"original": [vectors, vectors], "model": [vectors @ turn] * 2}, labels, ("a", "b"))
    one, two = (np.array(made["points"][role]) for role in ("original", "model"))
    assert np.abs(one[0] - one[1]).max() < 0.02
    assert np.median(np.abs(one - two)) < 0.1


def test_at_most_five_stages_the_head_input_always() -> None:
    vectors, labels = clouds(24)
    layers = tuple(f"stage{number}" for number in range(8))
    made = maps({"model": [vectors] * 8}, labels, layers)
    assert len(made["layers"]) == 5 == len(made["points"]["model"])
    assert made["layers"][0] == "stage0" and made["layers"][-1] == "stage7"


def test_which_examples_are_shown() -> None:
    vectors, labels = clouds(2000)
    labels[labels == 3] = torch.tensor([3] + [2] * 499)  # a rare class, and a frequent one
    made = maps({"model": [vectors]}, labels)
    assert len(made["labels"]) == MOST_POINTS
    assert sum(made["forget"]) == MOST_FORGET
    assert all((label == 1) == forgotten for label, forgotten in zip(made["labels"], made["forget"], strict=True))
    rest = MOST_POINTS - MOST_FORGET
    assert abs(made["labels"].count(0) - rest / 3) <= 1
    assert abs(made["labels"].count(2) - 2 * rest / 3) <= 2


@pytest.mark.parametrize(
    "vectors",
    [torch.zeros(30, 5), torch.full((30, 5), 3.7), torch.arange(30.0)[:, None], torch.randn(30, 3) * 1e-20 + 1e5],
    ids=["dead", "constant", "one unit", "far away"],
)
def test_poor_features_have_a_map_without_a_warning(vectors: Tensor) -> None:
    labels = torch.arange(30) % CLASSES
    points = np.array(maps({"model": [vectors]}, labels)["points"]["model"][0])
    assert np.isfinite(points).all() and (points >= 0).all() and (points <= 1).all()


def test_few_examples_have_a_map() -> None:
    vectors, labels = clouds(7)
    assert len(maps({"model": [vectors]}, labels)["points"]["model"][0]) == 7


class Corner(nn.Module):
    """Class 1 is the sum of the upper left quarter, class 0 that of all; behind a stage that copies the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
        self.head = nn.Linear(2, 2, bias=False)
        mask = torch.zeros(8, 8)
        mask[:4, :4] = 1
        self.register_buffer("mask", mask)
        with torch.no_grad():
            self.stage[0].weight[:] = torch.tensor([1.0, 0.0])[:, None, None, None]
            self.head.weight[:] = torch.eye(2).flip(0)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage(images)
        return self.head(torch.stack([(maps[:, 0] * self.mask).mean((1, 2)), maps[:, 0].mean((1, 2))], 1))


def pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def test_warm_where_the_activations_are() -> None:
    """Grad-CAM weighs the channel by its mean gradient: here one channel, positive, so heat lies on the bright spot."""
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 1, 6] = 1.0
    (uri,) = heat_maps(Corner(), images, 1, "stage")
    image = pixels(uri)
    red_over_blue = image[:, :, 0] - image[:, :, 2]
    assert np.unravel_index(red_over_blue.argmax(), (8, 8)) == (1, 6)
    assert np.abs(image[5:, :4]).max() < 16


def test_grey_where_nothing_speaks_for_the_class() -> None:
    model = Corner()
    with torch.no_grad():
        model.head.weight[1] *= -1
    (uri,) = heat_maps(model, torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 1, "stage")
    image = pixels(uri)
    assert np.abs(image - image.mean(2, keepdims=True)).max() < 3


def state(model: nn.Module) -> list[Any]:
    tensors = [tensor.clone() for tensor in model.state_dict().values()]
    modules = [
        (module.training, dict(module._forward_hooks), dict(module._backward_hooks), dict(module._forward_pre_hooks))
        for module in model.modules()
    ]
    return [tensors, modules, [(one.requires_grad, one.grad) for one in model.parameters()]]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(frozen: bool) -> None:
    model = build_model("resnet8", CLASSES, channels=3, size=32).train()
    model.requires_grad_(not frozen)
    before = state(model)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layer = spatial_stage(model, images)
    assert layer is not None
    with torch.no_grad():
        found = heat_maps(model, images, 1, layer)
    assert len(found) == 3 and all(len(uri) < 8000 for uri in found)
    after = state(model)
    assert all(torch.equal(one, two) for one, two in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


def test_large_images_are_stored_small() -> None:
    images = torch.rand(1, 1, 200, 100, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    (uri,) = heat_maps(model, images, 0, "0")
    assert pixels(uri).shape == (96, 48, 3)


def test_nets_without_maps_have_no_heat() -> None:
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    assert spatial_stage(vectors, torch.rand(2, 1, 8, 8)) is None
    assert spatial_stage(build_model("vit", CLASSES, channels=1, size=28), torch.rand(2, 1, 28, 28)) is None
    assert heat_maps(vectors, torch.rand(2, 64), 0, "1") == []
    assert heat_maps(Corner(), torch.rand(2, 5, 8, 8), 0, "stage") == []


def test_the_last_stage_with_a_map_is_taken() -> None:
    assert spatial_stage(Corner(), torch.rand(2, 1, 8, 8)) == "stage"


def test_without_captum_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert heat_maps(Corner(), torch.rand(2, 1, 8, 8), 0, "stage") == []


def test_a_model_without_an_output_for_the_class_has_no_heat() -> None:
    assert heat_maps(Corner(), torch.rand(1, 1, 8, 8), 2, "stage") == []


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no module 'nowhere'"):
        heat_maps(Corner(), torch.rand(1, 1, 8, 8), 0, "nowhere")
