"""Preconditions that only the models themselves can show: twins, records that speak against them, other inputs."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from rasura.auditing.gates import Gate
from rasura.auditing.probe import Probe
from rasura.auditing.scores import MODEL, ORIGINAL
from rasura.data import Data, ForgetClasses, Request, are_images, describe, resolve
from rasura.models import card_of, device_of, logits_of
from rasura.training import evaluating

SAMPLE = 500
"""Retained examples on which other preprocessings are tried."""
LEAST_APART = 0.02
"""Weights of two trainings are more than their own size apart; those of a copy with noise, by the noise."""
LEAST_SHARE = 0.8
"""Share of the original's accuracy that a model reaches with other inputs, if it was made for those."""


def identity_gates(model: nn.Module, anchors: Mapping[str, nn.Module]) -> Iterator[Gate]:
    """No reference may be the original, the model or another reference over again, or with a little noise."""
    models = {MODEL: _weights(model)} | {name: _weights(one) for name, one in anchors.items()}
    names = list(models)
    for at, name in enumerate(names):
        if name in (MODEL, ORIGINAL):
            continue
        apart = {other: _apart(models[name], models[other]) for other in names[:at]}
        twin = next((other for other in apart if apart[other] < LEAST_APART), None)
        yield Gate(
            f"{name} is a model of its own",
            twin is None,
            f"weights {apart[twin]:.1%} away from those of the {twin}" if twin else "different from all others",
            f"weights at least {LEAST_APART:.0%} away from those of any other",
            "retrain it from scratch with another seed",
        )


def record_gates(anchors: Mapping[str, nn.Module], request: Request, data: Data) -> Iterator[Gate]:
    """What references' own records say of how they came about: a masked original also answers like one."""
    what = "the class" if isinstance(request, ForgetClasses) else "the examples"
    for name, model in anchors.items():
        card = card_of(model)
        if name == ORIGINAL or not (card.history or card.training):
            continue
        methods = ", ".join(str(entry.get("method")) for entry in card.history)
        seen = _seen(card.training, request, data)
        found = f"made by {methods}" if methods else f"trained with {seen}" if seen else "trained without it"
        yield Gate(
            f"{name} was trained from scratch without {what}",
            not (methods or seen),
            found,
            f"a model trained from scratch without {what}",
            "retrain it: a model that was made to forget is no yardstick",
        )


def _seen(training: Mapping[str, object], request: Request, data: Data) -> str:
    """What of the request the training saw by its record; empty if nothing, or if the record does not say."""
    if isinstance(request, ForgetClasses):
        forgotten = {data.classes[number] for number in resolve(request, data).forget_classes}
        without = training.get("without", forgotten)
        return ", ".join(sorted(forgotten - set(without)))  # pyright: ignore[reportArgumentType]
    without = training.get("without_samples", request.indices)
    return describe(request, data) if set(request.indices) - set(without) else ""  # pyright: ignore


def preprocessing_gate(model: nn.Module, probe: Probe, accuracy: float, original: float) -> Gate | None:
    """Whether a model that names few retained examples names many once their values are scaled otherwise.

    Args:
        model: the model in question.
        probe: the held-out examples.
        accuracy: its accuracy on the retained ones as they are; at most half of the original's.
        original: the original's accuracy on them.

    Returns:
        A failed gate that names the scaling; None if no other scaling helps, or inputs are no images.
    """
    rows = (~probe.forget).nonzero()[:, 0][:SAMPLE]
    inputs, labels = probe.examples.batch(rows)
    if not are_images(inputs):
        return None
    for name, changed in _scalings(inputs).items():
        found = _accuracy(model, changed, labels)
        if found >= LEAST_SHARE * original:
            return Gate(
                "the model takes the data's inputs",
                False,
                f"it names {accuracy:.1%} of the retained examples, and {found:.1%} of them with {name}",
                "a model made for the preprocessing of this data",
                "give the data the preprocessing that the model was trained with",
            )
    return None


def _scalings(inputs: Tensor) -> dict[str, Tensor]:
    low, high = inputs.amin((0, 2, 3), keepdim=True), inputs.amax((0, 2, 3), keepdim=True)
    unit = (inputs - low) / (high - low).clamp(min=1e-9)
    middle, spread = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True).clamp(min=1e-9)
    found = {
        "values from 0 to 1": unit,
        "values from 0 to 255": 255 * unit,
        "values from −1 to 1": 2 * unit - 1,
        "standardised values": (inputs - middle) / spread,
        "dark and light exchanged": high + low - inputs,
    }
    return found | {"the channels in reverse order": inputs.flip(1)} if inputs.shape[1] > 1 else found


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with evaluating(model):
        said = logits_of(model, inputs.to(device_of(model))).argmax(1).cpu()
    return float((said == labels).double().mean())


def _weights(model: nn.Module) -> list[Tensor]:
    """Every matrix and filter in order, whatever the modules around them are called."""
    return [one.detach().float().cpu() for one in model.state_dict().values() if one.ndim > 1]


def _apart(one: list[Tensor], two: list[Tensor]) -> float:
    """How far two lists of weights lie apart, as a share of their size, where they differ at all; 1 for other shapes.

    What is shared exactly, such as a frozen backbone, says nothing of the rest.
    """
    if [weight.shape for weight in one] != [weight.shape for weight in two]:
        return 1.0
    differing = [(a, b) for a, b in zip(one, two, strict=True) if not torch.equal(a, b)]
    size = sum(float(a.square().sum()) for a, _ in differing)
    apart = sum(float((a - b).square().sum()) for a, b in differing)
    return (apart / max(size, 1e-30)) ** 0.5 if differing else 0.0
