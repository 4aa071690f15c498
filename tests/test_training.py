"""The optimisation loop: bits, resuming, schedules, augmentation, and prediction."""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rasura import InputError, Recipe, fit, predict, training
from rasura.data import Examples, examples_from
from rasura.training import Batch, flip, resolved, shift


def images(count: int = 40, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randn(count, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)
    return examples_from(pixels, labels)


def net(norm: bool = False, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    middle: nn.Module = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 3))


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


FULL = Recipe(epochs=4, batch_size=16, augment=("shift", "flip"), label_smoothing=0.1)


# ------------------------------------------------------------------------------------------ determinism


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_seed_decides_every_bit(optimiser):
    recipe = replace(FULL, optimiser=optimiser, epochs=2)
    results = []
    for seed, noise in [(1, 5), (1, 6), (2, 5)]:
        model = net(norm=True, dropout=0.3)
        torch.manual_seed(noise)
        results.append(bits(fit(model, images(), recipe, seed)))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    model = net(dropout=0.3)
    torch.manual_seed(3)
    fit(model, images(), FULL, seed=9)
    assert torch.equal(torch.rand(4), expected)


def test_training_learns_and_returns_the_same_model_in_eval_mode_without_gradients():
    model, examples = net(), images()
    result = fit(model, examples, Recipe(epochs=60, learning_rate=0.01), seed=0)
    assert result is model and not any(module.training for module in model.modules())
    assert (predict(model, examples).argmax(1) == examples.labels).double().mean() > 0.9
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("step", [1, 5, 6, 11, 12], ids=lambda step: f"at step {step} of 12")
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(optimiser, step, tmp_path):
    recipe = replace(FULL, optimiser=optimiser)  # three steps per epoch
    start = net(norm=True, dropout=0.3)
    whole = bits(fit(copy.deepcopy(start), images(), recipe, seed=1))
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(copy.deepcopy(start), images(), recipe, seed=1, checkpoint=path, progress=stop_at(step))
    assert path.exists() == (step > 3)
    steps = []
    resumed = fit(
        copy.deepcopy(start), images(), recipe, 1, checkpoint=path, progress=lambda _, done, __: steps.append(done)
    )
    assert same(bits(resumed), whole)
    assert steps[0] == (step - 1) // 3 * 3 + 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_finished_run_is_not_done_again(tmp_path):
    start, path = net(), tmp_path / "checkpoint.pt"
    whole = bits(fit(copy.deepcopy(start), images(), FULL, seed=1, checkpoint=path))
    steps = []
    again = fit(copy.deepcopy(start), images(), FULL, 1, checkpoint=path, progress=lambda *step: steps.append(step))
    assert same(bits(again), whole) and not steps


OTHER_RUNS: dict[str, dict[str, Any]] = {
    "recipe": {"recipe": replace(FULL, learning_rate=0.02)},
    "seed": {"seed": 2},
    "examples": {"examples": images().take(torch.arange(30))},
    "other examples of the same number": {"examples": images(60).take(torch.arange(20, 60))},
    "other labels": {"examples": replace(images(), labels=images().labels.flip(0))},
    "starting weights": {"model": net(seed=1)},
    "architecture": {"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 3))},
}


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_ignored(what, tmp_path):
    this = {"model": net(), "examples": images(), "recipe": FULL, "seed": 1}
    other = this | OTHER_RUNS[what]
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(**{**this, "model": copy.deepcopy(this["model"])}, checkpoint=path, progress=stop_at(7))
    alone = bits(fit(**{**other, "model": copy.deepcopy(other["model"])}))
    beside = bits(fit(**{**other, "model": copy.deepcopy(other["model"])}, checkpoint=path))
    assert same(alone, beside)


def test_frozen_parameters_stay():
    model = net()
    model.get_submodule("0").requires_grad_(False)
    before = bits(model)
    fit(model, images(), FULL, seed=0)
    after = bits(model)
    assert {name for name in before if torch.equal(before[name], after[name])} == {"0.weight", "0.bias"}
    with pytest.raises(InputError, match="model: no parameter requires a gradient"):
        fit(model.requires_grad_(False), images(), FULL, seed=0)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_one_step_is_that_of_the_textbook(optimiser):
    """One full batch: the step is computed here from autograd and the optimiser's definition."""
    examples = images(12)
    model = net().double()
    examples = replace(examples, source=examples.source.double())
    recipe = Recipe(1, 12, optimiser, learning_rate=0.1, weight_decay=0.01, schedule="constant", clip=0.0)
    by_hand = copy.deepcopy(model).train()
    F.cross_entropy(by_hand(examples.source), examples.labels).backward()
    fit(model, examples, recipe, seed=0)
    for name, parameter in by_hand.named_parameters():
        gradient, value = parameter.grad, parameter.detach()
        assert gradient is not None
        decay = 0.01 if value.ndim >= 2 else 0.0  # biases do not decay
        if optimiser == "sgd":  # Nesterov's first step is (1 + momentum) gradients long
            expected = value - 0.1 * 1.9 * (gradient + decay * value)
        else:
            expected = value * (1 - 0.1 * decay) - 0.1 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, atol=1e-7, rtol=1e-6)


def test_a_gradient_longer_than_the_limit_is_cut():
    examples = images(12)
    plain, cut = net(), net()
    recipe = Recipe(1, 12, "sgd", learning_rate=1.0, weight_decay=0.0, schedule="constant", clip=0.0)
    before = bits(plain)
    fit(plain, examples, recipe, seed=0)
    fit(cut, examples, replace(recipe, clip=0.01), seed=0)
    lengths = []
    for model in (plain, cut):
        after = bits(model)
        lengths.append(math.sqrt(sum((after[name] - before[name]).square().sum().item() for name in after)))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(1.9 * 0.01, rel=1e-3)


def test_a_loss_sees_inputs_labels_and_positions():
    examples, seen = images(10), []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, labels = examples.batch(batch.index)
        assert torch.equal(inputs, batch.inputs) and torch.equal(labels, batch.labels)  # pyright: ignore
        seen.extend(batch.index.tolist())
        return F.cross_entropy(model(batch.inputs), batch.labels)

    fit(net(), examples, Recipe(epochs=2, batch_size=4), seed=0, loss=loss)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_three_dimensional_net_can_be_trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    examples = examples_from(torch.randn(8, 1, 3, 3, 3), torch.arange(8) % 2)
    before = bits(model)
    after = bits(fit(model, examples, Recipe(epochs=1), seed=0))
    assert not any(torch.equal(before[name], after[name]) for name in before)


# -------------------------------------------------------------------------------- batches of one


def test_a_last_batch_of_one_example_is_left_out_where_batch_norm_needs_two():
    examples = images(17)
    counted = net(norm=True)
    fit(counted, examples, Recipe(epochs=1, batch_size=16), seed=0)
    assert counted.get_buffer("1.num_batches_tracked").item() == 1
    plain, steps = net(), []
    fit(
        plain, examples, Recipe(epochs=1, batch_size=16), 0, progress=lambda _, done, total: steps.append((done, total))
    )
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("count", "batch_size"), [(6, 1), (1, 16)])
def test_single_examples_alone_cannot_train_batch_norm(count, batch_size):
    with pytest.raises(InputError, match="batch_size: every batch has 1 example; allowed: 2 or more"):
        fit(net(norm=True), images(count), Recipe(epochs=1, batch_size=batch_size), seed=0)
    before = bits(net())
    assert not same(before, bits(fit(net(), images(count), Recipe(epochs=1, batch_size=batch_size), seed=0)))


# ----------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {0: 0.2, 5: 0.2, 9: 0.2}),
        ("cosine", {0: 0.2, 5: 0.1, 9: 0.1 * (1 + math.cos(0.9 * math.pi))}),
        # Rises over the first fifth (two of ten steps) from next to nothing, then falls in a straight line to 0.
        ("one-cycle", {0: 0.2 * 0.01 / 0.21, 1: 0.2 * 0.11 / 0.21, 2: 0.2, 6: 0.1, 9: 0.2 * 0.1 / 0.8}),
    ],
)
def test_schedules_at_points_computed_by_hand(schedule, rates, monkeypatch):
    used: list[float] = []
    made = training._optimiser

    def watched(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        optimiser = made(model, recipe)
        optimiser.register_step_pre_hook(lambda one, *_: used.append(one.param_groups[0]["lr"]))
        return optimiser

    monkeypatch.setattr(training, "_optimiser", watched)
    fit(net(), images(20), Recipe(epochs=2, batch_size=4, learning_rate=0.2, schedule=schedule), seed=0)
    assert len(used) == 10
    assert {step: used[step] for step in rates} == pytest.approx(rates)


def test_auto_follows_the_net():
    assert resolved(Recipe(), net(norm=True)) == Recipe(optimiser="sgd", learning_rate=0.1, weight_decay=5e-4)
    assert resolved(Recipe(), net()) == Recipe(optimiser="adamw", learning_rate=1e-3, weight_decay=0.05)
    chosen = Recipe(optimiser="sgd", learning_rate=0.3, weight_decay=0.0)
    assert resolved(chosen, net()) == chosen


# -------------------------------------------------------------------------------------- augmentation

drawn_images = st.tuples(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 3), st.integers(4, 24))


@settings(deadline=None, max_examples=40)
@given(drawn_images)
def test_shift_moves_every_image_by_no_more_than_its_reach_and_fills_with_zeros(drawn):
    seed, batch, channels, side = drawn
    generator = torch.Generator().manual_seed(seed)
    given_images = torch.rand(batch, channels, side, side, generator=generator) + 1.0
    moved = shift(given_images, generator)
    assert moved.shape == given_images.shape
    reach = max(1, round(side / 10))
    for before, after in zip(given_images, moved, strict=True):
        fits = []
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                expected = torch.zeros_like(before)
                rows = slice(max(down, 0), side + min(down, 0)), slice(max(-down, 0), side + min(-down, 0))
                columns = slice(max(right, 0), side + min(right, 0)), slice(max(-right, 0), side + min(-right, 0))
                expected[:, rows[0], columns[0]] = before[:, rows[1], columns[1]]
                fits.append(torch.equal(after, expected))
        assert sum(fits) == 1


def test_shift_takes_oblong_images_and_reaches_every_place():
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(400, 1, 10, 14)
    picture[:, 0, 5, 7] = 1.0
    places = shift(picture, generator).nonzero()[:, 2:].unique(dim=0).tolist()
    assert places == [[row, column] for row in (4, 5, 6) for column in (6, 7, 8)]


@settings(deadline=None, max_examples=40)
@given(drawn_images)
def test_flip_mirrors_some_images_and_twice_is_nothing(drawn):
    seed, batch, channels, side = drawn
    given_images = torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))
    once = flip(given_images, torch.Generator().manual_seed(seed))
    for before, after in zip(given_images, once, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))
    assert torch.equal(flip(once, torch.Generator().manual_seed(seed)), given_images)


def test_flip_mirrors_about_half():
    picture = torch.zeros(1000, 1, 4, 4)
    picture[..., 0] = 1.0
    mirrored = flip(picture, torch.Generator().manual_seed(0))[:, 0, 0, 3].sum().item()
    assert 430 <= mirrored <= 570


def test_augmentation_reaches_the_net_and_is_refused_for_what_is_no_image():
    examples = images(8)
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch.inputs, Tensor)
        seen.append((batch.inputs != examples.source[batch.index]).any())
        return F.cross_entropy(model(batch.inputs), batch.labels)

    fit(net(), examples, Recipe(epochs=1, augment=("shift",)), seed=0, loss=loss)
    assert all(seen)
    flat = examples_from(torch.randn(6, 5), torch.arange(6) % 2)
    with pytest.raises(InputError, match="augment: the inputs are no images"):
        fit(nn.Linear(5, 2), flat, Recipe(epochs=1, augment=("flip",)), seed=0)


# --------------------------------------------------------------------------------------------- errors


def test_a_loss_that_became_nan_is_an_error_that_names_the_rate():
    with pytest.raises(InputError, match=r"learning_rate: 1e\+20 made the loss (nan|inf); allowed: a smaller one"):
        fit(net(), images(), Recipe(epochs=9, optimiser="sgd", learning_rate=1e20, clip=0.0), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: 0; allowed: a whole number, 1 or more"),
        ({"epochs": 2.5}, "epochs: 2.5"),
        ({"epochs": "3"}, "epochs: '3'"),
        ({"batch_size": -4}, "batch_size: -4"),
        ({"optimiser": "adam"}, "optimiser: 'adam' is unknown; did you mean 'adamw'"),
        ({"schedule": "onecycle"}, "schedule: 'onecycle' is unknown; did you mean 'one-cycle'"),
        ({"learning_rate": -0.1}, "learning_rate: -0.1; allowed: 0 or more"),
        ({"learning_rate": math.nan}, "learning_rate: nan"),
        ({"weight_decay": math.inf}, "weight_decay: inf; allowed: a finite number"),
        ({"weight_decay": math.nan}, "weight_decay: nan"),
        ({"clip": math.inf}, "clip: inf"),
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0; allowed: 0 up to, not including, 1"),
        ({"label_smoothing": math.nan}, "label_smoothing: nan"),
        ({"augment": ("shift", "flop")}, "augment: 'flop' is unknown; did you mean 'flip'"),
    ],
    ids=str,
)
def test_a_bad_field_of_a_recipe_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe(**changes)


def test_a_recipe_survives_json():
    import json

    recipe = Recipe(epochs=3, optimiser="sgd", augment=("flip", "shift"), clip=0.0, weight_decay=0.1)
    assert Recipe.from_json(json.loads(json.dumps(asdict(recipe)))) == recipe
    assert Recipe.from_json({}) == Recipe()
    assert Recipe.from_json({"epochs": 2, "of a later version": 1}) == Recipe(epochs=2)


# ------------------------------------------------------------------------------------------- predict


class Words(nn.Module):
    """Takes a dict, returns an object with `.logits`, as Hugging Face's classifiers do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Any:
        mean = (self.embed(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.head(mean), hidden_states=None)


def sentences(count: int = 23) -> Examples:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    tokens = torch.randint(4, (count, 5), generator=generator) + 4 * labels[:, None]
    return examples_from({"tokens": tokens, "mask": torch.ones(count, 5)}, labels)


def test_predict_is_a_plain_loop_over_the_examples():
    model, examples = fit(net(norm=True, dropout=0.5), images(), FULL, seed=0), images(23)
    steps = []
    found = predict(model, examples, batch_size=10, progress=lambda *step: steps.append(step))
    with torch.no_grad():
        expected = torch.cat([model(examples.source[row : row + 1]) for row in range(23)])
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32
    assert steps == [("predicting", 1, 3), ("predicting", 2, 3), ("predicting", 3, 3)]


def test_predictions_can_be_used_in_a_loss():
    model = net()
    target = predict(model, images()).softmax(1)
    free = nn.Parameter(torch.zeros_like(target))
    F.kl_div(free.log_softmax(1), target, reduction="batchmean").backward()
    (free * target).sum().backward()  # saves the target for the backward pass
    assert free.grad is not None


def test_a_net_that_keeps_tensors_can_be_trained_after_a_prediction():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(36, 3)
            self.kept: Tensor | None = None

        def forward(self, pixels: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = torch.linspace(0.5, 1.5, 36)
            return self.linear(pixels.flatten(1)) * self.kept[:3]

    model = Caching()
    predict(model, images())
    fit(model, images(), Recipe(epochs=1), seed=0)


@pytest.mark.parametrize("fails", [False, True])
def test_predict_puts_every_modules_mode_back(fails):
    model = net(norm=True).train()
    model.get_submodule("1").eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model.get_buffer("1.running_mean").clone()
    if fails:
        with pytest.raises(InputError, match=r"data: the model cannot take inputs of shape \(4, 1, 9, 9\)"):
            predict(model, examples_from(torch.rand(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64)))
    else:
        predict(model, images())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.get_buffer("1.running_mean"), statistics)


def test_text_in_dicts_and_answers_with_logits_are_trained_and_predicted():
    torch.manual_seed(0)
    model, examples = Words(), sentences()
    fit(model, examples, Recipe(epochs=40, batch_size=8, learning_rate=0.05), seed=0)
    found = predict(model, examples, batch_size=7)
    assert found.shape == (23, 3)
    assert (found.argmax(1) == examples.labels).all()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda pixels: pixels, r"Returning returned \(5, 1, 6, 6\); allowed: logits of shape \[batch, classes\]"),
        (lambda pixels: (pixels, pixels), "Returning returned tuple; allowed"),
        (lambda pixels: pixels.no_such_thing, "has no attribute 'no_such_thing'"),
    ],
)
def test_a_model_that_returns_no_logits_is_refused(output, message):
    class Returning(nn.Module):
        def forward(self, pixels: Tensor) -> Any:
            return output(pixels)

    with pytest.raises((InputError, AttributeError), match=message):
        predict(Returning(), images(5))


def test_a_text_model_given_other_columns_says_which_shapes_it_got():
    examples = examples_from({"words": torch.zeros(4, 5, dtype=torch.int64)}, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"inputs of shape {'words': \(4, 5\)} \(.*unexpected keyword"):
        predict(Words(), examples)


def test_a_checkpoint_goes_into_a_folder_that_is_made_for_it(tmp_path: Path):
    path = tmp_path / "new" / "checkpoint.pt"
    fit(net(), images(), Recipe(epochs=1), seed=0, checkpoint=path)
    assert path.exists()


def no_content(path):
    path.write_bytes(b"")


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def a_tensor(path):
    torch.save(torch.zeros(3), path)


def code(path):
    path.write_bytes(pickle.dumps(print, protocol=2))


def flipped_bit_of(place):
    def flipped_bit(path):
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)

    return flipped_bit


@pytest.mark.parametrize(
    "damage", [no_content, cut_in_half, zeros, a_tensor, code, *map(flipped_bit_of, (0, 0.2, 0.4, 0.6, 0.8, 0.999))]
)
def test_a_damaged_checkpoint_is_dropped_with_a_word(damage, tmp_path, capsys):
    start, path = net(), tmp_path / "checkpoint.pt"
    whole = bits(fit(copy.deepcopy(start), images(), FULL, seed=1, checkpoint=path))
    damage(path)
    assert same(bits(fit(copy.deepcopy(start), images(), FULL, seed=1, checkpoint=path)), whole)
    assert capsys.readouterr().err == f"rasura: the checkpoint {path} is damaged; training starts from the beginning\n"
