"""Linear maps that no method reaches are named in the record, and sequences may have their tokens first."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.methods.damp import Damp
from rasura.methods.rfa import Rfa
from rasura.testing import check_method, small_problem

QUICK = Rfa(steps=6, batch_size=32, forget_batch_size=16, unseen_steps=1)


class Functional(nn.Module):
    """One of its maps is applied by a function, as in torchvision's Swin, and one not at all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(64, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.unused, self.head = nn.Linear(24, 5), nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1)).relu()
        hidden = F.linear(hidden, self.second.weight, self.second.bias).relu()
        return self.head(self.third(hidden).relu())


class Sequence(nn.Module):
    """PyTorch's transformer with tokens in the first dimension: rows of an image are tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 16)
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(16, 2, 32, dropout=0) for _ in range(3)))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images[:, 0]).transpose(0, 1)
        return self.head(self.layers(tokens).mean(0))


def test_damp_names_maps_that_do_not_run_as_modules():
    _, record = Damp(depth="constant")(small_problem(Functional()))
    skipped = {one["operator"]: one["skipped"] for one in record["operators"]}
    assert skipped.pop("second") == skipped.pop("unused") == "it does not run as a module"
    assert set(skipped) == {"first", "third", "head"} and not any(skipped.values())


def test_rfa_names_every_map_without_adapter():
    _, record = QUICK(small_problem(Functional()))
    assert {"second", "unused"} <= set(record["without_adapter"])
    assert not set(record["without_adapter"]) & set(record["ranks"])
    _, record = QUICK(small_problem(Sequence()))
    assert {"layers.1.self_attn", "layers.2.self_attn"} <= set(record["without_adapter"])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_rfa_aligns_sequences_with_tokens_first():
    problem = small_problem(Sequence())
    check_method(QUICK, problem)
    _, record = Rfa(target="retain-centroid", steps=60, batch_size=32, forget_batch_size=16)(problem)
    assert len(record["residuals"]["layers"]) > 2
    first, last = (record["residuals"]["distance"][-1][at] for at in (0, -1))
    assert last < first
