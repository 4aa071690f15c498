"""Single examples of a forgotten class: what is read of them, where the edit sends them, and what it leaves alone."""

import pytest
import torch
from test_damp import labelled, normal, statistics_of
from test_damp_nets import edits, problem_for, retained_means, summaries, two
from torch import Tensor

from rasura.errors import InputError
from rasura.methods import _orders
from rasura.methods._class_statistics import ClassStatistics, Summary, shrunk
from rasura.methods._directions import directions
from rasura.methods._erasers import Erasure, oblique
from rasura.methods._operator import as_taps
from rasura.methods._sites import find_sites
from rasura.methods._within import HELD, dispersal
from rasura.methods.damp import Damp

RIDGE = 0.1


def read(vectors: Tensor, labels: Tensor, forget: list[int], classes: int = 5, parts: int = 1) -> ClassStatistics:
    """All vectors give means, and all are scored."""
    found = ClassStatistics("it", classes, torch.tensor(forget), singles=True)
    for some, named in zip(vectors.chunk(parts), labels.chunk(parts), strict=True):
        found.fit(some, named)
    found.settle()
    for some, named in zip(vectors.chunk(parts), labels.chunk(parts), strict=True):
        found.score(some, named)
    return found


def named_as(statistics: ClassStatistics, vectors: Tensor) -> Tensor:
    """The retained prototype that each vector is named as: linear discriminant analysis, written out."""
    summary, reader = statistics.summary(), statistics.reader
    assert reader is not None and reader.slopes is not None
    staying = summary.prototypes[~statistics.is_forgotten]
    scores = torch.stack([(vectors - one / 2) @ slope for one, slope in zip(staying, reader.slopes.T, strict=True)], 1)
    return staying[scores.argmax(1)]


def around_means(values: Tensor, labels: Tensor) -> Tensor:
    away = values.clone()
    for number in labels.unique():
        away[labels == number] -= values[labels == number].mean(0)
    return away


@pytest.mark.parametrize("forget", [[3], [0, 3, 4]], ids=["one class", "three classes"])
def test_moments_of_single_examples_are_those_of_all_at_once(forget):
    vectors, labels = labelled()
    whole, streamed = (read(vectors, labels, forget, parts=parts) for parts in (1, 7))
    going = torch.isin(labels, torch.tensor(forget))
    own = around_means(vectors[going], labels[going])
    named = around_means(named_as(whole, vectors[going]), labels[going])
    assert (named.abs().sum(1) > 0.1).any()
    for found in (whole.summary(), streamed.summary()):
        assert found.own is not None and found.named is not None
        torch.testing.assert_close(found.own, own.T @ own / len(own))
        torch.testing.assert_close(found.named, named.T @ own / len(own))
        some = found.channels(slice(1, 4))
        torch.testing.assert_close(some.own, found.own[1:4, 1:4])
        torch.testing.assert_close(some.named, found.named[1:4, 1:4])


def test_single_examples_are_not_read_unasked():
    summary = statistics_of(*labelled(), [3]).summary()
    assert summary.own is None and summary.named is None and summary.channels(slice(0, 2)).own is None


def erasure_of(summary: Summary) -> Erasure:
    basis = directions(summary.prototypes, summary.forget, "routed", routing=summary.routing)
    return oblique(basis, shrunk(summary.retain.covariance, RIDGE), summary.retain.mean)


@pytest.mark.parametrize("forget", [[3], [0, 4]], ids=["one class", "two classes"])
def test_the_move_is_the_regression_that_holds_retained_examples(forget):
    vectors, labels = labelled()
    statistics = read(vectors, labels, forget)
    summary, going = statistics.summary(), torch.isin(labels, torch.tensor(forget))
    erased = erasure_of(summary)
    kept = torch.eye(6, dtype=torch.float64) - erased.left @ erased.right.T
    own = around_means(vectors[going], labels[going]) @ kept.T
    wanted = around_means(named_as(statistics, vectors[going]), labels[going]) @ kept.T - own
    retained = (vectors[~going] - summary.retain.mean) @ kept.T
    even = (RIDGE * retained.square().mean()) ** 0.5 * torch.eye(6, dtype=torch.float64)
    held = torch.cat([retained / len(retained) ** 0.5, even]) * HELD**0.5
    rows, goals = (
        torch.cat([own / len(own) ** 0.5, held]),
        torch.cat([wanted / len(own) ** 0.5, torch.zeros_like(held)]),
    )
    move = torch.linalg.lstsq(rows, goals).solution.T
    found = dispersal(erased, summary, RIDGE)
    torch.testing.assert_close(-found.left @ found.right.T, move @ kept, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(found.centre, summary.retain.mean)


def planted(count: int = 4000) -> tuple[Tensor, Tensor]:
    """Two retained classes, and one halfway between them whose examples lean to either by a cue that only they have."""
    labels = torch.arange(count) % 3
    side = (torch.arange(count) // 3 % 2 * 2 - 1).double()
    vectors = 0.1 * normal(count, 5)
    vectors[:, 0] += torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)[labels] + 0.3 * side * (labels == 2)
    vectors[:, 1] += side * (labels == 2)
    vectors[:, 2] += 2.0 * (labels == 2)
    return vectors, labels


def test_a_cluster_of_its_own_goes_to_the_retained_ones():
    vectors, labels = planted()
    summary = read(vectors, labels, [2], classes=3).summary()
    erased = erasure_of(summary)
    found, going = dispersal(erased, summary, RIDGE), labels == 2
    projected = vectors - (vectors - erased.centre) @ erased.right @ erased.left.T
    moved = vectors - (vectors - found.centre) @ found.right @ found.left.T
    moved = moved - (moved - erased.centre) @ erased.right @ erased.left.T
    prototypes = summary.prototypes[:2]
    near = {
        name: torch.cdist(one[going], prototypes).amin(1).mean()
        for name, one in (("projected", projected), ("moved", moved))
    }
    assert near["moved"] < 0.6 * near["projected"]
    assert (moved - projected)[~going].square().mean() < 0.1 * projected[~going].square().mean()


def test_without_examples_that_are_scored_nothing_moves():
    vectors, labels = labelled()
    statistics = ClassStatistics("it", 5, torch.tensor([3]), singles=True)
    statistics.fit(vectors, labels)
    statistics.settle()
    statistics.score(vectors[labels != 3], labels[labels != 3])
    summary = statistics.summary()
    assert not dispersal(erasure_of(summary), summary, RIDGE).left.any()


@pytest.mark.parametrize("order", ["sequential", "one-shot"])
@pytest.mark.parametrize("net", ["resnet8", "grouped", "vit", "attention"])
def test_only_the_last_maps_move_single_examples_and_they_still_answer_to_no_direction(net, order):
    problem, settings = problem_for(net), {"order": order, "shortcut": 0.0}
    plain, without = Damp(**settings)(problem)
    model, record = Damp(**settings, within=1.0)(problem)
    found, sites, moved = edits(record), {site.name: site for site in find_sites(model, two(problem))}, []
    for site, summary in summaries(problem.model if order == "one-shot" else model, problem):
        assert (found[site.name]["dispersed"] > 0) == (site.last and found[site.name]["edit"] == "project"), site.name
        if not found[site.name]["dispersed"]:
            continue
        moved.append(site.name)
        taps, width = as_taps(sites[site.name].weight, site.module), summary.prototypes.shape[1] // site.groups
        for group, rows in enumerate(taps.chunk(site.groups)):
            part = summary.channels(slice(group * width, (group + 1) * width))
            basis = directions(part.prototypes, part.forget, "routed", 0.95, part.routing)
            assert torch.einsum("oit,ir->ort", rows, basis).norm() <= 1e-5 * max(1.0, rows.norm().item())
    assert moved
    assert not any(entry["dispersed"] for entry in without["operators"])
    changed = [name for name, one in model.state_dict().items() if not torch.equal(one, plain.state_dict()[name])]
    assert any(name.startswith(moved[0].removesuffix(".out_proj")) for name in changed)


def test_the_retained_mean_stays_where_it_was():
    problem = problem_for("mlp")
    model, record = Damp(within=1.0)(problem)
    assert edits(record)["3"]["dispersed"] > 0.01
    moved = retained_means(model, problem, "3") - retained_means(problem.model, problem, "3")
    assert moved.abs().max() <= 1e-5


def test_micro_batches_in_lockstep_are_one_batch(monkeypatch):
    problem, found = problem_for("resnet8"), []
    for size in (10_000, 37):
        monkeypatch.setattr(_orders, "MICRO_BATCH", size)
        found.append(Damp(within=0.5)(problem)[0].state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(wrong):
    with pytest.raises(InputError, match=r"within: .*; allowed: 0 to 1"):
        Damp(within=wrong)
