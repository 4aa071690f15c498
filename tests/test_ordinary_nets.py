"""Nets as people write them: the audit and DAMP read what can be read, name what cannot, and refuse none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rasura
from rasura import Data, ForgetClasses, Recipe
from rasura.activations import anatomy
from rasura.auditing.reading import parts_of, read, read_head
from rasura.models import logits_of
from rasura.models.logits import answer_in
from rasura.training import fit

CLASSES, ROWS, WIDTH = 4, 4, 4


class Member(nn.Module):
    def __init__(self, output: str = "tensor") -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 12), nn.Linear(12, CLASSES)
        self.output = output

    def forward(self, images: Tensor):
        hidden = self.body(torch.flatten(images, 1)).relu()
        said = self.head(hidden)
        return {
            "tensor": said,
            "tuple": (said, hidden),
            "dict": {"features": hidden, "logits": said},
            "unnamed": {"maps": hidden[:, :, None], "scores": said},
        }[self.output]


class Ensemble(nn.Module):
    """The mean of its members' answers, or of their probabilities."""

    def __init__(self, shares: bool = False) -> None:
        super().__init__()
        self.members, self.shares = nn.ModuleList(Member() for _ in range(3)), shares

    def forward(self, images: Tensor) -> Tensor:
        said = torch.stack([member(images) for member in self.members])
        return said.softmax(2).mean(0).log() if self.shares else said.mean(0)


class Positions(nn.Module):
    """Rows of an image are tokens, whose places are learned by an embedding, a parameter and a map of positions."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.place, self.shift = nn.Embedding(ROWS, 12), nn.Parameter(torch.zeros(ROWS, 12))
        self.ruler, self.embed = nn.Linear(1, 12), nn.Linear(WIDTH, 12)
        self.mix, self.norm, self.head = nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, CLASSES)
        self.times = 2 if shared else 1

    def forward(self, images: Tensor) -> Tensor:
        places = self.place(torch.arange(ROWS)) + self.shift + self.ruler(torch.linspace(0, 1, ROWS)[:, None])
        tokens = self.embed(images[:, 0]) + places
        for _ in range(self.times):
            tokens = tokens + self.mix(self.norm(tokens).reshape(-1, 12)).relu().reshape(-1, ROWS, 12)
        return self.head(tokens.reshape(-1, 12)).reshape(-1, ROWS, CLASSES).mean(1)


class Tuples(nn.Module):
    """A part that returns a tuple, a recurrent layer, and answers that a function makes with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory = nn.Linear(WIDTH, 8), nn.GRU(8, 12, batch_first=True)
        self.prototypes = nn.Parameter(torch.randn(CLASSES, 12) / 4)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.memory(self.embed(images[:, 0]))
        return F.linear(states[:, -1], self.prototypes)


class Functional(nn.Module):
    """Not a single linear layer: two parameters and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(12, 16) / 4)
        self.second = nn.Parameter(torch.randn(CLASSES, 12) / 4)

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(F.linear(images.flatten(1), self.first).relu(), self.second)


def one_dimensional() -> nn.Module:
    layers = nn.Conv1d(ROWS, 12, 3, padding=1), nn.BatchNorm1d(12), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    return nn.Sequential(nn.Flatten(1, 2), nn.Sequential(*layers), nn.Linear(12, CLASSES))


NETS: dict[str, Callable[[], nn.Module]] = {
    "ensemble of answers": Ensemble,
    "ensemble of probabilities": lambda: Ensemble(shares=True),
    "positions": Positions,
    "a layer used twice": lambda: Positions(shared=True),
    "tuples inside": Tuples,
    "a tuple of outputs": lambda: Member("tuple"),
    "a dict of outputs": lambda: Member("dict"),
    "a dict without the name": lambda: Member("unnamed"),
    "functions alone": Functional,
    "signals": one_dimensional,
    "spread over devices": lambda: nn.DataParallel(Member()),
}
UNREAD = {
    "positions": "not read: ruler of model, original, reference 1 (its rows are not examples)",
    "a layer used twice": "not read: ruler of model, original, reference 1 (its rows are not examples)",
    "functions alone": "not read: the head of model, original, reference 1 (no linear layer gives the answers)",
}


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(CLASSES, 1, ROWS, WIDTH, generator=generator)
    parts = []
    for each in (30, 20):
        labels = torch.arange(CLASSES).repeat_interleave(each)
        parts.append((pattern[labels] + 0.6 * torch.randn(len(labels), 1, ROWS, WIDTH, generator=generator), labels))
    return Data.from_tensors(*parts, classes=["a", "b", "c", "d"])


def trained(name: str, data: Data, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NETS[name]()
    kept = data.train.take(data.train.labels != 3) if seed else data.train
    return fit(net, kept, Recipe(epochs=12, batch_size=20, optimiser="adamw", learning_rate=0.01), seed)


@pytest.mark.parametrize("name", NETS)
def test_an_ordinary_net_is_audited_and_what_cannot_be_read_is_named(name, data):
    original, *others = (trained(name, data, seed) for seed in range(3))
    finding = rasura.audit(others[0], data, ForgetClasses("d"), original, others[1:])
    assert finding.verdict in rasura.VERDICTS
    notes = finding.content["notes"]
    assert [note for note in notes if note.startswith("not read")] == ([UNREAD[name]] if name in UNREAD else [])


@pytest.mark.parametrize("name", [name for name in NETS if name != "functions alone"])
def test_damp_changes_an_ordinary_net_and_names_what_it_leaves_alone(name, data):
    outcome = rasura.forget(trained(name, data, 0), data, ForgetClasses("d"), rasura.methods.Damp())
    operators = outcome.record["details"]["operators"]
    assert any(one["edit"] for one in operators)
    assert all(one["edit"] or one["skipped"] for one in operators)
    retired = {one["operator"] for one in operators if one["edit"] == "retire"}
    if name.startswith("ensemble"):
        assert retired == {f"members.{at}.head" for at in range(3)}
    # No linear layer gives the answers of the one; those of the others see the rows of all images as one batch.
    assert bool(retired) != (name in ("tuples inside", *UNREAD))
    if name in UNREAD:
        assert "not one per example" in next(one["skipped"] for one in operators if one["operator"] == "ruler")


@pytest.mark.parametrize("shares", [False, True])
def test_an_ensemble_is_read_by_all_its_members(shares, data):
    net = Ensemble(shares).eval()
    inputs, _ = data.test.batch(torch.arange(len(data.test)))
    parts = parts_of(net, data.test)
    assert parts.heads == tuple(f"members.{at}.head" for at in range(3))
    assert parts.stages == tuple(f"members.{at}.body" for at in range(3))
    found = read(net, data.test, parts, stages=True)
    bodies = [member.body(inputs.flatten(1)).relu() for member in net.members]
    torch.testing.assert_close(found.inner, torch.cat(bodies, dim=1))
    head = read_head(net, parts, found.inner, CLASSES)
    assert head is not None
    torch.testing.assert_close(
        head(found.inner), torch.stack([m(inputs) for m in net.members]).mean(0), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found.said, head(found.inner), atol=1e-5, rtol=0)


def test_a_class_that_one_member_hides_from_the_answers_is_still_read(data):
    """Only the first member knows class 3; the last says nothing of it, and was the only one that was read."""
    net = Ensemble().eval()
    with torch.no_grad():
        for at, member in enumerate(net.members):
            member.body.weight.zero_()
            member.body.weight[0, 0] = float(at == 0)
    found = read(net, data.test, parts_of(net, data.test))
    assert found.inner.std(0)[0] > 0 and found.inner.std(0)[12:].max() == 0


def test_reading_a_head_in_training_mode_moves_no_computed_weight(data):
    net = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(16, CLASSES))).train()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    parts = parts_of(net, data.test)
    assert read_head(net, parts, read(net, data.test, parts).inner, CLASSES) is not None
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())


def test_a_stage_that_the_audited_net_alone_shows_is_named(data):
    """The last stage of the original is what its head gets; the audited net changes it on the way."""

    class Changing(nn.Module):
        def __init__(self, inner: Member) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(inner.body, nn.ReLU()), inner.head

        def forward(self, images: Tensor) -> Tensor:
            return self.head(2 * self.body(images.flatten(1)))

    class Plain(Changing):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images.flatten(1)))

    original, *others = (Plain(trained("a tuple of outputs", data, seed)).eval() for seed in range(3))
    finding = rasura.audit(Changing(others[0]).eval(), data, ForgetClasses("d"), original, others[1:])
    assert "stages not compared" in finding.qualifiers
    assert "not compared: body of model, which not all models have" in finding.content["notes"]


def test_the_answer_is_found_in_what_a_net_returns():
    table, other, maps = torch.rand(2, 3), torch.rand(2, 5), torch.rand(2, 5, 1)
    for output in (
        table,
        (table, other),
        [maps, table],
        {"logits": table, "hidden": other},
        {"maps": maps, "y": table},
    ):
        assert answer_in(output) is table
    both = {"one": table, "two": other}
    assert answer_in(both) is both
    net = Member("tuple")
    torch.testing.assert_close(logits_of(net, torch.ones(2, 16)), net(torch.ones(2, 16))[0])


def test_a_decoy_that_no_answer_depends_on_is_no_head():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.decoy = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, rows: Tensor) -> Tensor:
            said = 2 * self.head(rows)
            self.decoy(rows)
            return said

    assert anatomy(Scaled(), torch.rand(2, 4)).heads == ("head",)
