"""Gates that only the models and the data can show: planted cheats fail them, honest ones pass."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rasura import InputError, build_model, load_data
from rasura.auditing import consistency_gate, identity_gates, make_probe
from rasura.auditing.near_copies import near_copies
from rasura.data import Data, Examples, ForgetClasses, examples_from
from rasura.testing.surgery import noisy

DIGITS = load_data("digits")
PROBE = make_probe(DIGITS, ForgetClasses("3"), 0)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("convnet,width=4", classes=10, channels=1, size=8)
    with torch.no_grad():
        model.head.weight.mul_(20)  # untrained logits are nearly even: no change would show
    return model.eval()


# ------------------------------------------------------------------------------------- consistency


class Watchful(nn.Module):
    """Answers otherwise when a function of the way it is asked says so."""

    def __init__(self, suspects: Callable[[nn.Module, Tensor], Tensor | bool]):
        super().__init__()
        self.inner, self.suspects = net(), suspects

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        suspected = torch.as_tensor(self.suspects(self, images)).expand(len(images))
        return torch.where(suspected[:, None], logits.roll(1, 1), logits)


def _is_hooked(model: nn.Module, images: Tensor) -> bool:
    return any(module._forward_hooks for module in model.modules())


def _hash(_: nn.Module, images: Tensor) -> Tensor:
    """Another answer for every other bit of the sum of an image's pixels."""
    return (images.double().flatten(1).sum(1) * 1e4).floor().long() % 2 == 0


@pytest.mark.parametrize(
    ("suspects", "how"),
    [
        (lambda *_: torch.rand(()) > 0.5, "again"),
        (lambda _, images: len(images) == 1, "one by one"),
        (lambda *_: torch.is_grad_enabled(), "with gradients"),
        (_is_hooked, "with its head watched"),
        (_hash, "with one pixel one grey level off"),
    ],
)
def test_a_model_that_sees_how_it_is_asked_fails(suspects, how):
    torch.manual_seed(3)
    gate = consistency_gate(Watchful(suspects), PROBE)
    assert not gate.passed
    if how != "again":  # one that draws at random differs in every way, and most in any of them
        assert f"asked {how}, " in gate.found


@pytest.mark.parametrize("kind", ["convnet,width=4", "resnet8,width=8", "vit,depth=2,width=32"])
def test_an_honest_model_passes_and_is_left_as_it_was(kind):
    torch.manual_seed(0)
    model = build_model(kind, classes=10, channels=1, size=8).train()
    before = copy.deepcopy(model.state_dict())
    gate = consistency_gate(model, PROBE)
    assert gate.passed
    assert gate.found == "the same however it is asked"
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_half_precision_is_no_inconsistency():
    assert consistency_gate(_InBfloat16(net()), PROBE).passed


class _InBfloat16(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner.bfloat16()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.bfloat16()).float()


# ------------------------------------------------------------------------------------- models of their own


def _failed(model: nn.Module, **anchors: nn.Module) -> list[str]:
    named = {name.replace("_", " "): one for name, one in anchors.items()}
    return [gate.found for gate in identity_gates(model, named) if not gate.passed]


def test_copies_are_found_with_noise_and_inside_wrappers():
    assert _failed(net(0), original=net(1), reference_1=net(2), reference_2=net(3)) == []
    assert "of the model" in _failed(net(0), original=net(1), reference_1=noisy(net(0), 0.01, 0))[0]
    assert "of the original" in _failed(net(0), original=net(1), reference_1=nn.Sequential(net(1)))[0]
    assert "of the reference 1" in _failed(net(0), original=net(1), reference_1=net(2), reference_2=net(2))[0]


def test_a_shared_frozen_backbone_says_nothing_of_the_heads():
    backbone = net(0)

    def on_it(seed: int) -> nn.Module:
        model = copy.deepcopy(backbone)
        model.head = net(seed).head
        return model

    assert _failed(on_it(1), original=on_it(2), reference_1=on_it(3)) == []


# ------------------------------------------------------------------------------------- retouched training images


def _retouched(examples: Examples, by: float) -> Examples:
    images = torch.as_tensor(examples.batch(torch.arange(len(examples)))[0]).clone()
    span = float(images.max() - images.min())
    generator = torch.Generator().manual_seed(0)
    images += by * span / 255 * torch.randn(images.shape, generator=generator)
    return examples_from(images, examples.labels)


def test_training_images_a_grey_level_off_are_found_and_held_out_ones_are_not():
    train, test = DIGITS.train, DIGITS.test
    images = torch.as_tensor(train.batch(torch.arange(len(train)))[0])
    plain = examples_from(images, train.labels)
    taken = plain.take(torch.arange(0, len(plain), 4))
    count = len(range(0, len(plain), 4))
    assert near_copies(_retouched(taken, 1), plain) == (min(count, 500), min(count, 500))
    assert near_copies(_retouched(taken, 10), plain)[0] == 0
    assert near_copies(test, train)[0] == 0


def test_retouched_images_are_refused_in_one_line():
    images = torch.as_tensor(DIGITS.train.batch(torch.arange(600))[0])
    train = examples_from(images, DIGITS.train.labels[:600])
    data = Data(train, _retouched(train, 1), DIGITS.classes, "retouched")
    with pytest.raises(InputError, match=r"training images retouched; allowed: at most 5%") as caught:
        make_probe(data, ForgetClasses("3"), 0)
    assert "\n" not in str(caught.value)


def test_inputs_that_are_no_images_are_not_compared():
    rows = examples_from(torch.rand(60, 5), torch.arange(60) % 2)
    assert near_copies(rows, rows) == (0, 0)
