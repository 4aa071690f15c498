"""Recovery rungs without training: known answers, planted truth, and models that stay as they were."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import update_bn

from rasura.activations import Point, anatomy, features
from rasura.auditing import Probe, make_probe, read_anchor
from rasura.auditing.decoders import standardised
from rasura.auditing.recovery import (
    BATCH,
    RECALIBRATION,
    SCORED_RETAINED,
    STRENGTHS,
    answers,
    batch_norm_recalibrated,
    linear_stitch,
    operator_weights,
    prototypes,
    quantised,
    spread,
)
from rasura.data import ForgetClasses, load_data
from rasura.errors import InputError
from rasura.methods.contract import Problem
from rasura.methods.retrain import Retrain
from rasura.testing import small_problem
from rasura.training import predict

FORGOTTEN = 3


@pytest.fixture(scope="module")
def probe() -> Probe:
    return make_probe(load_data("digits"), ForgetClasses((str(FORGOTTEN),)), 0)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem("resnet8,width=8", (FORGOTTEN,))


@pytest.fixture(scope="module")
def retrained(problem: Problem) -> nn.Module:
    return Retrain()(problem)[0]


@pytest.fixture(scope="module", params=["resnet8,width=8", "convnet,width=8", "vit,width=16,depth=1"])
def any_net(request: pytest.FixtureRequest) -> nn.Module:
    return small_problem(request.param, (FORGOTTEN,)).model


def recall(said: Tensor, probe: Probe) -> float:
    """Accuracy on the forget class among the examples that were scored."""
    return right(said, probe, probe.forget)


def right(said: Tensor, probe: Probe, among: Tensor) -> float:
    scored = among & (said >= 0)
    assert scored.any()
    return (said == probe.labels)[scored].double().mean().item()


def head_inputs(model: nn.Module, probe: Probe) -> Tensor:
    point = Point(anatomy(model, probe.examples.batch(torch.arange(2))[0]).head, "input")
    return features(model, probe.examples, [point])[0][point]


def portrait(model: nn.Module) -> list:
    """Every bit of the state, and modes, hooks and what is trainable."""
    bits = [(name, tensor.clone().numpy().tobytes()) for name, tensor in model.state_dict().items()]
    modes = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    ]
    momenta = [getattr(module, "momentum", None) for module in model.modules()]
    return [bits, modes, momenta, [parameter.requires_grad for parameter in model.parameters()]]


# -------------------------------------------------------------------------------------- spread, answers


EXAMPLES = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60)


@given(EXAMPLES, st.integers(1, 70), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_spread_takes_allowed_positions_of_classes_in_turn(rows, most, seed):
    labels, among = torch.tensor([label for label, _ in rows]), torch.tensor([allowed for _, allowed in rows])
    chosen = spread(labels, among, most, seed)
    assert len(chosen) == len(chosen.unique()) == min(most, int(among.sum()))
    assert among[chosen].all()
    for stop in range(1, len(chosen) + 1):
        taken, there = labels[chosen[:stop]].bincount(minlength=5), labels[among].bincount(minlength=5)
        assert (taken >= torch.minimum(there, taken.max() - 1)).all()


def test_answers_are_the_model_s_own_on_all_forget_examples_and_some_retained_ones(probe, problem):
    said = answers(problem.model, probe, 0)
    scored = said >= 0
    assert scored[probe.forget].all()
    assert int(scored[~probe.forget].sum()) == SCORED_RETAINED
    per_class = probe.labels[scored & ~probe.forget].bincount()
    assert per_class[per_class > 0].max() - per_class[per_class > 0].min() <= 1
    assert torch.equal(said[scored], predict(problem.model, probe.examples).argmax(1)[scored])
    assert not torch.equal(scored, answers(problem.model, probe, 1) >= 0)


# -------------------------------------------------------------------------------------- batch_norm_recalibrated


def recalibrated(model: nn.Module, probe: Probe, seed: int = 0) -> Tensor:
    said = batch_norm_recalibrated(model, probe, seed)
    assert said is not None
    return said


def poisoned(model: nn.Module) -> nn.Module:
    """A copy in which the last running mean hides the forget class."""
    copied = copy.deepcopy(model)
    norm = copied.layer3[0].bn2
    telling = copied.head.weight[FORGOTTEN] - copied.head.weight.mean(0)
    with torch.no_grad():
        norm.running_mean += 6 * norm.running_var.sqrt() * telling.sign()
    return copied


def test_a_class_hidden_in_running_statistics_comes_back(probe, problem):
    hidden = poisoned(problem.model)
    assert recall(predict(hidden, probe.examples).argmax(1), probe) == 0
    back = recalibrated(hidden, probe)
    own = predict(problem.model, probe.examples).argmax(1)
    assert recall(back, probe) >= recall(own, probe) - 0.05
    assert right(back, probe, ~probe.forget) >= right(own, probe, ~probe.forget) - 0.05


def test_recalibration_does_not_teach_a_retrained_model_the_class(probe, retrained):
    assert recall(recalibrated(retrained, probe), probe) == 0


def test_statistics_are_those_of_torch_s_update_bn(probe, problem):
    oracle = copy.deepcopy(problem.model)
    chosen = spread(probe.labels, ~probe.forget, RECALIBRATION, 0)
    batches = [probe.examples.batch(part)[0] for part in chosen.tensor_split(math.ceil(len(chosen) / BATCH))]
    update_bn(batches, oracle)
    said = recalibrated(problem.model, probe)
    assert torch.equal(said, answers(oracle, probe, 0))


def test_forget_examples_have_no_part_in_the_statistics(probe, problem):
    source = probe.examples.source.clone()
    noise = torch.rand(source[probe.examples.rows[probe.forget]].shape, generator=torch.Generator().manual_seed(0))
    source[probe.examples.rows[probe.forget]] = (255 * noise).to(source.dtype)
    noisy = replace(probe, examples=replace(probe.examples, source=source))
    before, after = (recalibrated(problem.model, one) for one in (probe, noisy))
    assert torch.equal(before[~probe.forget], after[~probe.forget])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("architecture", ["convnet,width=8", "vit,width=16,depth=1"])
def test_a_net_without_batch_norm_has_no_such_rung(architecture, probe):
    assert batch_norm_recalibrated(small_problem(architecture, (FORGOTTEN,)).model, probe, 0) is None


def test_a_batch_norm_without_running_statistics_has_no_such_rung(probe):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10, track_running_stats=False))
    assert batch_norm_recalibrated(net, probe, 0) is None


def test_dropout_stays_off_while_statistics_are_estimated(probe):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10), nn.BatchNorm1d(10))
    plain = nn.Sequential(net[0], net[2], net[3])
    assert torch.equal(recalibrated(net, probe), recalibrated(plain, probe))


# -------------------------------------------------------------------------------------- prototypes


def blobs(count: int, apart: float, classes: int = 4, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian clouds: features, labels, halves."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    means = apart * torch.randn(classes, width, generator=generator)
    return means[labels] + torch.randn(count, width, generator=generator), labels, torch.arange(count) // classes % 2


@pytest.mark.parametrize("shots", [1, 2, 7])
def test_every_draw_is_scikit_learn_s_nearest_centroid_with_so_many_labels(shots):
    vectors, labels, halves = blobs(64, 0.7)  # 8 labels of each class in each half
    design = standardised(vectors).double().numpy()
    said = prototypes(vectors, labels, halves, (2,), 4, (shots,), draws=6, seed=0)[shots]
    for half in (0, 1):
        pool, test = (halves == half).numpy(), (halves != half).numpy()
        members = np.flatnonzero(pool & (labels == 2).numpy())
        retained = np.flatnonzero(pool & (labels != 2).numpy())
        possible = set()
        for chosen in itertools.combinations(members, shots):
            used = np.r_[retained, chosen]
            oracle = NearestCentroid().fit(design[used], labels[used])
            possible.add(tuple(oracle.predict(design[test])))
        assert {tuple(draw.tolist()) for draw in said[:, test]} <= possible


def test_two_forget_classes_get_so_many_labels_each():
    vectors, labels, halves = blobs(24, 0.7)  # 3 labels of each class in each half
    design = standardised(vectors).double().numpy()
    said = prototypes(vectors, labels, halves, (0, 3), 4, (2,), draws=5, seed=0)[2]
    pool, test = (halves == 0).numpy(), (halves == 1).numpy()
    members = [np.flatnonzero(pool & (labels == number).numpy()) for number in (0, 3)]
    retained = np.flatnonzero(pool & ((labels == 1) | (labels == 2)).numpy())
    possible = set()
    for pair in itertools.product(*(itertools.combinations(one, 2) for one in members)):
        used = np.r_[retained, pair[0], pair[1]]
        possible.add(tuple(NearestCentroid().fit(design[used], labels[used]).predict(design[test])))
    assert {tuple(draw.tolist()) for draw in said[:, test]} <= possible


def test_prototypes_do_not_see_the_labels_of_the_half_that_they_score():
    vectors, labels, halves = blobs(160, 0.7)
    wrong = torch.where(halves == 1, labels.roll(1), labels)
    before, after = (prototypes(vectors, one, halves, (2,), 4, (5,)) for one in (labels, wrong))
    assert torch.equal(before[5][:, halves == 1], after[5][:, halves == 1])
    assert not torch.equal(before[5][:, halves == 0], after[5][:, halves == 0])


def test_recall_rises_with_the_labels_and_draws_differ():
    vectors, labels, halves = blobs(800, 0.7)
    said = prototypes(vectors, labels, halves, (2,), 4)
    recalls = [(one == 2)[:, labels == 2].double().mean().item() for one in said.values()]
    assert list(said) == [1, 5, 10, 50]
    assert recalls[0] + 0.1 < recalls[1] < recalls[3]
    assert len({tuple(draw.tolist()) for draw in said[1]}) == len(said[1]) == 10


def test_shots_that_a_half_cannot_give_are_left_out_and_do_not_change_the_others():
    vectors, labels, halves = blobs(64, 0.7)
    whole, part = (prototypes(vectors, labels, halves, (2,), 4, shots, seed=3) for shots in ((1, 5, 8, 50), (5,)))
    assert list(whole) == [1, 5]
    assert torch.equal(whole[5], part[5])
    assert not torch.equal(part[5], prototypes(vectors, labels, halves, (2,), 4, (5,), seed=4)[5])


def test_prototypes_find_more_of_the_class_in_the_model_that_knows_it(probe, problem, retrained):
    found = []
    for model in (problem.model, retrained):
        said = prototypes(head_inputs(model, probe), probe.labels, probe.halves, (FORGOTTEN,), probe.classes)[5]
        found.append((said == FORGOTTEN)[:, probe.forget].double().mean().item())
    assert found[0] > found[1] + 0.05


# -------------------------------------------------------------------------------------- quantised


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_weights_lie_on_the_grid_that_torch_s_fake_quantisation_gives(bits, any_net):
    copied, largest = quantised(any_net, bits), 2 ** (bits - 1) - 1
    for (weight, outputs), (given_weight, _) in zip(operator_weights(copied), operator_weights(any_net), strict=True):
        assert outputs == 0
        step = given_weight.detach().flatten(1).abs().amax(1) / largest
        whole = weight.detach().flatten(1).double() / step[:, None].double()
        torch.testing.assert_close(whole, whole.round(), atol=1e-4, rtol=0)
        assert whole.round().abs().max() == largest
        zeros = torch.zeros(len(step), dtype=torch.int32)
        oracle = torch.fake_quantize_per_channel_affine(given_weight.detach(), step, zeros, 0, -largest, largest)
        torch.testing.assert_close(weight.detach(), oracle, atol=1e-6, rtol=0)


def test_biases_norms_and_positions_keep_every_bit(any_net):
    copied = quantised(any_net, 4)
    weights = {id(weight) for weight, _ in operator_weights(copied)}
    kept = [name for name, tensor in copied.named_parameters() if id(tensor) not in weights]
    kept += [name for name, _ in copied.named_buffers()]
    assert len(kept) > 2
    assert all(torch.equal(copied.state_dict()[name], any_net.state_dict()[name]) for name in kept)
    assert list(copied.state_dict()) == list(any_net.state_dict())


def test_eight_bits_change_next_to_nothing(any_net, probe):
    before, after = (predict(model, probe.examples).argmax(1) for model in (any_net, quantised(any_net, 8)))
    assert (before == after).double().mean() >= 0.98


def nudged(model: nn.Module, problem: Problem) -> nn.Module:
    """A copy whose weights moved by less than half a 4-bit step, each to where the forget class loses."""
    copied = copy.deepcopy(model)
    inputs, labels = problem.forget.batch(torch.arange(len(problem.forget)))
    torch.nn.functional.cross_entropy(copied(inputs), labels).backward()
    with torch.no_grad():
        for weight, _ in operator_weights(copied):
            assert weight.grad is not None
            peak = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1))
            weight += torch.where(weight.abs() == peak, 0, 0.49 * peak / 7 * weight.grad.sign())
    return copied


def test_quantisation_undoes_unlearning_that_moved_weights_by_less_than_half_a_step(probe, problem):
    original = quantised(problem.model, 4)
    unlearned = nudged(original, problem)
    assert recall(answers(original, probe, 0), probe) > 0.7
    assert recall(answers(unlearned, probe, 0), probe) < 0.05
    assert recall(answers(quantised(unlearned, 8), probe, 0), probe) < 0.05
    assert torch.equal(answers(quantised(unlearned, 4), probe, 0), answers(original, probe, 0))


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_quantisation_does_not_teach_a_retrained_model_the_class(bits, probe, retrained):
    assert recall(answers(quantised(retrained, bits), probe, 0), probe) == 0


def test_a_row_of_zeros_stays_and_a_second_rounding_changes_nothing(problem):
    model = copy.deepcopy(problem.model)
    with torch.no_grad():
        model.head.weight[FORGOTTEN] = 0
    once = quantised(model, 4)
    assert (once.head.weight[FORGOTTEN] == 0).all()
    for one, two in zip(once.parameters(), quantised(once, 4).parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-7, rtol=0)


def test_attention_s_projections_are_operators_too():
    attention = nn.MultiheadAttention(8, 2, kdim=6)
    shapes = [tuple(weight.shape) for weight, _ in operator_weights(nn.Sequential(attention))]
    assert sorted(shapes) == [(8, 6), (8, 8), (8, 8), (8, 8)]
    assert [tuple(w.shape) for w, _ in operator_weights(nn.MultiheadAttention(8, 2))] == [(24, 8), (8, 8)]


def test_hugging_face_s_conv1d_has_its_outputs_last():
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(5, 3)
    rounded = quantised(nn.Sequential(layer), 2)[0].weight
    peak = layer.weight.abs().amax(0)
    assert torch.equal(rounded.abs().amax(0), peak)
    assert ((rounded == 0) | (rounded.abs() == peak)).all()


def test_a_parametrised_weight_is_rounded_as_the_plain_one():
    plain = nn.Linear(6, 4)
    wrapped = weight_norm(copy.deepcopy(plain))
    torch.testing.assert_close(quantised(wrapped, 4).weight, quantised(plain, 4).weight, atol=1e-6, rtol=0)


def test_a_weight_that_a_hook_of_ones_own_computes_is_refused():
    model = nn.Sequential(nn.Linear(6, 4))
    del model[0].weight
    model[0].register_forward_pre_hook(lambda module, _: setattr(module, "weight", torch.ones(4, 6)))
    model[0].weight = torch.ones(4, 6)
    with pytest.raises(InputError, match="a hook computes the weight of 0"):
        quantised(model, 4)


@pytest.mark.parametrize("bits", [1, 9, 4.5])
def test_bits_out_of_range_are_refused(bits, problem):
    with pytest.raises(InputError, match=r"bits: .*allowed: 2 to 8"):
        quantised(problem.model, bits)


# -------------------------------------------------------------------------------------- linear_stitch


def related(count: int = 300, width: int = 10, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, nn.Linear]:
    """Features, retain mask, folds, and a head of four classes, the last of which is forgotten."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, 4).requires_grad_(False)
    head.weight.copy_(torch.randn(4, width, generator=generator))
    head.bias.copy_(torch.randn(4, generator=generator))
    vectors = torch.randn(count, width, generator=generator) * torch.linspace(0.3, 3, width)
    return vectors, head(vectors).argmax(1) != 3, torch.arange(count) % 5, head


def by_dense_algebra(design: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Ridge regression by scikit-learn; strength by generalised cross-validation, with the hat matrix written out."""
    count, best = len(design), (np.inf, 0.0)
    centred = design - design.mean(0)
    for strength in count * np.array(STRENGTHS):
        inverse = np.linalg.inv(centred.T @ centred + strength * np.eye(design.shape[1]))
        hat = centred @ inverse @ centred.T + 1 / count
        residual = targets - hat @ targets
        best = min(best, (np.sum(residual**2) / np.trace(np.eye(count) - hat) ** 2, strength))
    return Ridge(alpha=best[1]).fit(design, targets).predict(asked)


@pytest.mark.parametrize("noise", [0.1, 2.0, 20.0])
def test_the_map_is_the_ridge_regression_of_least_generalised_cross_validation_error(noise):
    vectors, retain, folds, head = related(120)
    seen = vectors @ torch.randn(10, 7, generator=torch.Generator().manual_seed(1))
    seen += noise * torch.randn(120, 7, generator=torch.Generator().manual_seed(2))
    said = linear_stitch(seen, vectors, retain, head, folds)
    design, targets = standardised(seen).double().numpy(), head(vectors).double().numpy()
    for fold in range(5):
        train, test = (retain & (folds != fold)).numpy(), (folds == fold).numpy()
        logits = by_dense_algebra(design[train], targets[train], design[test])
        assert said[test].tolist() == logits.argmax(1).tolist()


@given(st.integers(0, 10**6), st.sampled_from(["permuted", "rotated", "scaled", "mixed"]))
@settings(max_examples=30, deadline=None)
def test_the_stitch_undoes_permutation_rotation_and_scaling(seed, kind):
    vectors, retain, folds, head = related(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=generator)).Q
    scales = 10 ** (4 * torch.rand(10, generator=generator) - 2)
    change = {
        "permuted": torch.eye(10)[torch.randperm(10, generator=generator)],
        "rotated": rotation,
        "scaled": scales.diag(),
        "mixed": rotation @ torch.linspace(0.2, 5, 10).diag(),
    }[kind]
    said = linear_stitch(vectors @ change + 3, vectors, retain, head, folds)
    assert (said == head(vectors).argmax(1)).double().mean() >= 0.99


def permuted(model: nn.Module) -> nn.Module:
    """A copy whose last channels change places, head and all, and whose head no longer names the forget class."""
    copied = copy.deepcopy(model)
    block, order = copied.layer3[0], torch.randperm(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for conv, norm in ((block.conv2, block.bn2), (block.shortcut[0], block.shortcut[1])):
            conv.weight.copy_(conv.weight[order])
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(tensor[order])
        copied.head.weight.copy_(copied.head.weight[:, order])
        copied.head.weight[FORGOTTEN], copied.head.bias[FORGOTTEN] = 0, -50
    return copied


def head_of(model, probe):
    anchor = read_anchor(model, probe)
    assert anchor is not None
    return anchor.head


def test_a_net_with_permuted_channels_is_recovered_by_the_stitch_and_not_by_the_head_swap(probe, problem):
    hidden, head = permuted(problem.model), head_of(problem.model, probe)
    own = predict(problem.model, probe.examples).argmax(1)
    silent = predict(hidden, probe.examples).argmax(1)
    assert recall(silent, probe) == 0
    assert (silent == own)[own != FORGOTTEN].double().mean() > 0.99  # all else is as it was
    inner, original = head_inputs(hidden, probe), head_inputs(problem.model, probe)
    assert right(head(inner).argmax(1), probe, ~probe.forget) < 0.3  # a rung counts only if the net still works
    back = linear_stitch(inner, original, ~probe.forget, head, probe.folds)
    assert recall(back, probe) >= recall(own, probe) - 0.04
    assert right(back, probe, ~probe.forget) >= right(own, probe, ~probe.forget) - 0.02


def test_the_stitch_brings_little_back_from_a_retrained_model(probe, problem, retrained):
    inner, original = head_inputs(retrained, probe), head_inputs(problem.model, probe)
    back = linear_stitch(inner, original, ~probe.forget, head_of(problem.model, probe), probe.folds)
    assert recall(back, probe) < 0.3 * recall(predict(problem.model, probe.examples).argmax(1), probe)
    assert right(back, probe, ~probe.forget) > 0.8


def test_no_example_is_scored_by_a_map_that_saw_it_and_none_sees_forget_examples():
    vectors, retain, folds, head = related()
    seen = vectors + torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    before = linear_stitch(seen, vectors, retain, head, folds)
    wrong = vectors.clone()
    wrong[folds == 2] = 100 * torch.randn(60, 10, generator=torch.Generator().manual_seed(2))
    wrong[~retain] = math.nan
    after = linear_stitch(seen, wrong, retain, head, folds)
    assert torch.equal(before[folds == 2], after[folds == 2])
    assert not torch.equal(before[folds != 2], after[folds != 2])


def test_features_that_say_nothing_give_the_commonest_answer_and_no_error():
    vectors, retain, folds, head = related()
    said = linear_stitch(torch.full((300, 6), 7.3), vectors, retain, head, folds)
    for fold in range(5):
        expected = head(vectors[retain & (folds != fold)]).mean(0).argmax()
        assert (said[folds == fold] == expected).all()


def test_more_features_than_examples_still_give_an_answer_that_tells():
    vectors, retain, folds, head = related(120)
    wide = vectors @ torch.randn(10, 400, generator=torch.Generator().manual_seed(1))
    said = linear_stitch(wide, vectors, retain, head, folds)
    assert (said == head(vectors).argmax(1)).double().mean() >= 0.97


# -------------------------------------------------------------------------------------- the model stays


@pytest.mark.parametrize("mode", [True, False])
def test_the_given_model_stays_as_it_was(mode, any_net, probe):
    model = copy.deepcopy(any_net).train(mode)
    model.head.requires_grad_(False)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    before = portrait(model)
    batch_norm_recalibrated(model, probe, 0)
    copied = quantised(model, 4)
    answers(copied, probe, 0)
    answers(model, probe, 0)
    assert portrait(model) == before
    assert len(calls) > 1  # a hook is part of how the model answers: copies keep it
    handle.remove()


def test_the_same_seed_gives_the_same_bits_whatever_the_global_state(probe, problem):
    results = []
    for state in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            results.append(recalibrated(problem.model, probe, 5))
            assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*results)
