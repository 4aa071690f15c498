"""Answers in other forms than logits of all classes, against values computed by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rasura.models import Card, card_of, complete, logits_of, with_card

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])


class Says(nn.Module):
    """Answers with what it is given, as a tensor or in the manner of Hugging Face."""

    def __init__(self, in_an_object: bool = False):
        super().__init__()
        self.in_an_object = in_an_object

    def forward(self, answers):
        return SimpleNamespace(logits=answers) if self.in_an_object else answers


def test_logits_of_all_classes_stay_as_they_are():
    model = Says()
    assert complete(model, LOGITS, classes=3, places=[0, 1, 2]) is model
    positive = LOGITS - LOGITS.min()
    assert complete(model, positive, classes=3, places=[0, 1, 2]) is model


def test_probabilities_become_their_logarithms():
    shares = LOGITS.softmax(1)
    logits = logits_of(complete(Says(), shares, classes=3, places=[0, 1, 2]), shares)
    torch.testing.assert_close(logits, LOGITS - LOGITS.exp().sum(1, keepdim=True).log())
    assert logits_of(
        complete(Says(), shares, classes=3, places=[0, 1, 2]), torch.tensor([[1.0, 0.0, 0.0]])
    ).tolist() == [[0.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("in_an_object", [False, True])
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0, 2, 3], [2.0, -torch.inf, -1.0, 0.5]),
        ([1, 2, 3], [-torch.inf, 2.0, -1.0, 0.5]),
        ([3, 0, 1], [-1.0, 0.5, -torch.inf, 2.0]),
    ],
)
def test_a_class_without_an_output_is_never_named(in_an_object, places, expected):
    made = complete(Says(in_an_object), LOGITS, classes=4, places=places)
    assert logits_of(made, LOGITS)[0].tolist() == expected
    assert logits_of(made, {"answers": LOGITS})[0].tolist() == expected


def test_probabilities_of_fewer_classes_are_both_changed():
    shares = torch.tensor([[0.25, 0.75]])
    logits = logits_of(complete(Says(), shares, classes=4, places=[1, 2]), shares)
    assert logits[0, [0, 3]].tolist() == [-torch.inf, -torch.inf]
    torch.testing.assert_close(logits[0, [1, 2]].exp(), shares[0])


def test_the_record_stays():
    model = with_card(Says(), Card(data="somewhere"))
    assert card_of(complete(model, LOGITS, classes=4, places=[0, 1, 2])).data == "somewhere"
