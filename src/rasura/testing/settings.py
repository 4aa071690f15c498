"""Cases with data, an original or references of their own: what the audit must refuse, or not take for proof."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from rasura.data import Data, Examples, ForgetClasses
from rasura.models import card_of, with_card
from rasura.randomness import seeded
from rasura.testing.case import FINE, NOT_SETTLED, READABLE, REFUSED, Case
from rasura.testing.masks import shrunk
from rasura.testing.stage import CLASSES, FORGET, RECIPE, Inputs, Net, Stage, small_data, trained
from rasura.testing.surgery import masked, noisy, rotated
from rasura.training import fit

TWIN = f"{FORGET}, too"
ALSO_FORGOTTEN = "Dress"
INVALID = ("INVALID",)
INDEPENDENT = "a gate that original, model and references are no more alike inside than models of other seeds"
NEARLY = "a gate on the distance of held-out examples to the nearest training example"


def _claiming(net: nn.Module) -> nn.Module:
    """A record that says that the net was trained from scratch without the class."""
    return with_card(net, replace(card_of(net), training={"without": [FORGET]}, history=()))


@functools.cache
def _saw_the_class() -> Net:
    return trained(small_data(), 40)


def _fine_tuned(net: Net, stage: Stage, seed: int, without: Sequence[str] = (FORGET,)) -> nn.Module:
    """A copy with a head drawn anew, trained for a few epochs without some classes."""
    made = copy.deepcopy(net)
    with seeded(seed):
        made.head.reset_parameters()
    train = stage.data.train
    gone = torch.isin(train.labels, torch.tensor([stage.data.classes.index(name) for name in without]))
    return _claiming(fit(made, train.take(~gone), replace(RECIPE, epochs=6, learning_rate=0.001), seed))


def _beside(stage: Stage, reference: nn.Module) -> Inputs:
    """A retrained model beside two good references and another."""
    return replace(stage.inputs(stage.retrained), references=(*stage.references[:2], reference))


def _all_one_net(stage: Stage) -> Inputs:
    return replace(stage.inputs(stage.original), references=(stage.original,) * 3)


def _weak_reference(stage: Stage) -> Inputs:
    """Trained on too few images: about ten points worse on what is to stay."""
    few = torch.cat([(stage.data.train.labels == number).nonzero()[:32, 0] for number in range(len(CLASSES))])
    return _beside(stage, trained(replace(stage.data, train=stage.data.train.take(few)), 50, (FORGET,)))


def _copies_as_references(stage: Stage) -> Inputs:
    """The references are the audited model over again, with a little noise on the weights."""
    model = rotated(shrunk(stage, 0.2), 0)
    copies = tuple(_claiming(noisy(model, 0.01, seed)) for seed in range(5))
    return replace(stage.inputs(model), references=copies)


def _descendants_as_references(stage: Stage) -> Inputs:
    """The references come from the original by training on without the class, as the audited model does."""
    tuned = [_fine_tuned(stage.original, stage, seed) for seed in range(60, 64)]
    return replace(stage.inputs(tuned[0]), references=tuple(tuned[1:]))


def _pretrained_backbone(stage: Stage) -> Inputs:
    """Original, model and references were fine-tuned from one backbone that was trained with the class."""
    tuned = [_fine_tuned(_saw_the_class(), stage, seed) for seed in range(41, 45)]
    original = _fine_tuned(_saw_the_class(), stage, 45, without=())
    return Inputs(tuned[0], stage.data, stage.request, original, tuple(tuned[1:]))


def _few_images(stage: Stage) -> Inputs:
    labels = stage.data.test.labels
    kept = torch.cat([(labels != stage.forget).nonzero()[:, 0], (labels == stage.forget).nonzero()[:20, 0]])
    data = replace(stage.data, test=stage.data.test.take(kept))
    return replace(stage.inputs(stage.retrained), data=data)


def _near_duplicate(stage: Stage) -> Inputs:
    """Every second image of a class goes by another name, which is then forgotten: no model tells the two apart."""
    twin, number = len(stage.data.classes), stage.forget

    def halved(examples: Examples) -> Examples:
        labels = examples.labels.clone()
        labels[(labels == number).nonzero()[::2, 0]] = twin
        return replace(examples, labels=labels)

    data = Data(halved(stage.data.train), halved(stage.data.test), (*stage.data.classes, TWIN), "a class in two halves")
    retrained = [trained(data, seed, (TWIN,)) for seed in range(31, 35)]
    return Inputs(retrained[0], data, ForgetClasses(TWIN), trained(data, 30), tuple(retrained[1:]))


def _one_of_two_masked(stage: Stage) -> Inputs:
    """Retrained without one of two classes; the other is masked."""
    both = (FORGET, ALSO_FORGOTTEN)
    model = masked(stage.retrained, stage.data.classes.index(ALSO_FORGOTTEN))
    references = tuple(trained(stage.data, seed, both) for seed in range(71, 76))
    return Inputs(model, stage.data, ForgetClasses(both), stage.original, references)


def _on_training_images(stage: Stage) -> Inputs:
    return replace(stage.inputs(stage.retrained), data=replace(stage.data, test=stage.data.train))


def _on_retouched_training_images(stage: Stage) -> Inputs:
    """One pixel of each is one grey level off, which gives it another hash."""
    train = stage.data.train
    images = torch.as_tensor(train.stored(torch.arange(len(train)))).clone()
    images[:, 0, 0, 0] ^= 1
    test = replace(train, source=images, rows=torch.arange(len(images))).take(torch.arange(0, len(images), 3))
    return replace(stage.inputs(stage.retrained), data=replace(stage.data, test=test), references=stage.references[:2])


SETTINGS = (
    Case("original, model and references are one net", INVALID, _all_one_net, slow=True),
    Case("a reference ten points too weak", INVALID, _weak_reference, slow=True),
    Case(
        "a reference that saw the class",
        INVALID,
        lambda stage: _beside(stage, _claiming(trained(stage.data, 46))),
        slow=True,
    ),
    Case(
        "a reference that is a masked original",
        NOT_SETTLED,
        lambda stage: _beside(stage, _claiming(masked(stage.original, stage.forget))),
        slow=True,
    ),
    Case(
        "references are copies of the model",
        NOT_SETTLED,
        _copies_as_references,
        needs=INDEPENDENT,
        library="concept_erasure",
        slow=True,
    ),
    Case("references are descendants of the original", NOT_SETTLED, _descendants_as_references, slow=True),
    Case("a pretrained backbone that knew the class", NOT_SETTLED, _pretrained_backbone, slow=True),
    Case("twenty held-out images of the class", ("INCONCLUSIVE",), _few_images, slow=True),
    Case("a near-duplicate class is retained", FINE, _near_duplicate, slow=True),
    Case("one of two forgotten classes is masked", ("NOT FORGOTTEN", *READABLE), _one_of_two_masked, slow=True),
    Case("held-out images are training images", (REFUSED,), _on_training_images),
    Case(
        "held-out images are retouched training images",
        (REFUSED,),
        _on_retouched_training_images,
        needs=NEARLY,
        slow=True,
    ),
)
