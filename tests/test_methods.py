"""Methods: the contract for all of them, then what each one computes against an independent oracle."""

import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import rasura
from rasura import (
    Data,
    ForgetClasses,
    ForgetSamples,
    InputError,
    Problem,
    Recipe,
    Standardise,
    forget,
    methods,
    predict,
)
from rasura.data import Examples, examples_from
from rasura.methods.bias_shift import BiasShift
from rasura.methods.contract import UndeclaredError, name_of
from rasura.methods.damp import Damp
from rasura.methods.finetune import Finetune
from rasura.methods.logit_mask import LogitMask
from rasura.methods.retrain import Retrain
from rasura.models import card_of, reinitialised, with_card
from rasura.testing import check_method, small_problem

VIT = "vit,patch=2,width=16,depth=2"


def mlp(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10, bias=bias))


def mixed() -> nn.Module:
    """Grouped convolution, convolution that feeds a BatchNorm, and a head that is a 1×1 convolution."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


NETS: dict[str, str | Callable[[], nn.Module]] = {
    "convnet": "convnet,width=8",
    "resnet8": "resnet8,width=4",
    "vit": VIT,
    "no bias in the head": lambda: mlp(bias=False),
    "mixed": mixed,
}

CHANGING_INPUTS = {"boundary-shrink", "unsir"}
"""Methods that follow a gradient in the inputs, which tokens do not have."""

IMAGES_ONLY = {"cnr"}
"""Methods that generate images, and so take nothing else."""


def problem_for(net: str, classes: tuple[int, ...] = (3,)) -> Problem:
    architecture = NETS[net]
    return small_problem(architecture if isinstance(architecture, str) else architecture(), classes)


def shortened(name: str) -> Any:
    """The method with its default settings, save those that only say how long it runs."""
    method: Any = methods.method_class(name)()
    least = {"epochs": 2, "noise": 16, "noise_steps": 2, "steps": 5, "unseen_steps": 1, "generator_epochs": 1}
    return replace(method, **{key: min(least[key], value) for key, value in vars(method).items() if key in least})


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    first, second = left.state_dict(), right.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


# ---------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", methods.names())
def test_every_method_keeps_the_contract_on_every_kind_of_net(name, net, classes):
    check_method(shortened(name), problem_for(net, classes))


@dataclass(frozen=True)
class Scale:
    """A method that keeps the contract and does little."""

    factor: float = 0.5
    reads: ClassVar = ("retain",)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model = problem.copy_of_model().eval()
        inputs, _ = problem.retain.batch(torch.arange(2))
        problem.progress("scaling", 1, 1)
        with torch.no_grad():
            first_parameter(model).mul_(self.factor)
        return model, {"factor": self.factor, "shape": list(inputs.shape)}


def first_parameter(model: nn.Module) -> nn.Parameter:
    return next(model.parameters())


def with_act(act: Callable[[Problem, nn.Module], Any], declared: tuple[str, ...] = ("retain",)) -> Any:
    """`Scale`, doing `act` to the problem and the result before it returns; what `act` returns becomes the model."""

    @dataclass(frozen=True)
    class Acting:
        reads: ClassVar = declared

        def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
            model, record = Scale()(problem)
            changed = act(problem, model)
            return changed if isinstance(changed, nn.Module) else model, record

    return Acting()


def add_noise(model: nn.Module, noise: float) -> None:
    with torch.no_grad():
        first_parameter(model).add_(noise)


def edit_in_place(problem: Problem, model: nn.Module) -> None:
    add_noise(problem.model, 1e-3)


def return_the_given(problem: Problem, model: nn.Module) -> nn.Module:
    return problem.model


def share_a_weight(problem: Problem, model: nn.Module) -> None:
    first_parameter(model).data = first_parameter(problem.model).data


def hook_the_result(problem: Problem, model: nn.Module) -> None:
    model.get_submodule("head").register_forward_hook(lambda *_: None)


def hook_a_parameter(problem: Problem, model: nn.Module) -> None:
    first_parameter(model).register_hook(lambda gradient: gradient)


def hook_the_given(problem: Problem, model: nn.Module) -> None:
    problem.model.register_full_backward_hook(lambda *_: None)


def train_mode_inside(problem: Problem, model: nn.Module) -> None:
    model.get_submodule("block2").train()


def train_the_given(problem: Problem, model: nn.Module) -> None:
    problem.model.train()


def freeze_the_given(problem: Problem, model: nn.Module) -> None:
    first_parameter(problem.model).requires_grad_(False)


def leave_gradients(problem: Problem, model: nn.Module) -> None:
    inputs, _ = problem.retain.batch(torch.arange(2))
    problem.model(inputs).sum().backward()


def note_on_the_given(problem: Problem, model: nn.Module) -> None:
    problem.model.get_submodule("head").seen = True  # pyright: ignore[reportArgumentType]


def freeze_a_parameter(problem: Problem, model: nn.Module) -> None:
    first_parameter(model).requires_grad_(False)


def infer_a_parameter(problem: Problem, model: nn.Module) -> None:
    with torch.inference_mode():
        model.get_submodule("head").weight = nn.Parameter(torch.zeros(10, 32))


def use_torch(problem: Problem, model: nn.Module) -> None:
    add_noise(model, torch.rand(()).item())


def use_numpy(problem: Problem, model: nn.Module) -> None:
    add_noise(model, np.random.rand())


def use_random(problem: Problem, model: nn.Module) -> None:
    add_noise(model, random.random())


def use_entropy(problem: Problem, model: nn.Module) -> None:
    add_noise(model, random.SystemRandom().random())


def use_forked_state(problem: Problem, model: nn.Module) -> None:
    with torch.random.fork_rng(devices=[]):
        add_noise(model, torch.rand(()).item())


def look_at_forget(problem: Problem, model: nn.Module) -> None:
    problem.forget.batch(torch.arange(1))


def profit_from_forget(problem: Problem, model: nn.Module) -> None:
    if isinstance(problem.forget, Examples):
        add_noise(model, 1.0)


def reach_past_the_view(problem: Problem, model: nn.Module) -> None:
    source = problem.retain.source
    rows = sorted(set(range(len(source))) - set(problem.retain.rows.tolist()))
    Examples(source, torch.zeros(1, dtype=torch.int64), torch.tensor(rows[:1])).batch(torch.arange(1))


def relabel(problem: Problem, model: nn.Module) -> None:
    problem.retain.labels[0] = (problem.retain.labels[0] + 1) % problem.classes


def say(problem: Problem, model: nn.Module) -> None:
    print("done")


def complain(problem: Problem, model: nn.Module) -> None:
    print("careful", file=sys.stderr)


def write(problem: Problem, model: nn.Module) -> None:
    Path("weights.pt").write_bytes(b"")


def overshoot(problem: Problem, model: nn.Module) -> None:
    problem.progress("scaling", 3, 2)


def change_dtype(problem: Problem, model: nn.Module) -> None:
    model.get_submodule("head").double()


def change_shape(problem: Problem, model: nn.Module) -> None:
    model.get_submodule("head").weight = nn.Parameter(torch.zeros(11, 32))


def add_a_name(problem: Problem, model: nn.Module) -> None:
    model.register_buffer("mask", torch.zeros(10))


def wrap(problem: Problem, model: nn.Module) -> nn.Module:
    return nn.Sequential(model).eval()


def swap_a_module(problem: Problem, model: nn.Module) -> None:
    model.pool = nn.AdaptiveMaxPool2d(1).eval()


def parametrise(problem: Problem, model: nn.Module) -> None:
    weight_norm(model.get_submodule("head"))


def break_weights(problem: Problem, model: nn.Module) -> None:
    add_noise(model, float("nan"))


VIOLATIONS = {
    edit_in_place: "the given model was changed: block1.0.weight",
    return_the_given: "returned the model it was given",
    share_a_weight: "block1.0.weight shares memory",
    hook_the_result: "head kept a hook",
    hook_a_parameter: "parameter block1.0.weight kept a hook",
    hook_the_given: "the given model was changed: hooks of the model",
    train_mode_inside: "block2 is in training mode",
    train_the_given: "the given model was changed: training of the model",
    freeze_the_given: "the given model was changed: requires_grad of block1.0.weight",
    leave_gradients: "the given model was changed: gradient of block1.0.weight",
    note_on_the_given: "the given model was changed: attributes of head",
    freeze_a_parameter: "'block1.0.weight' cannot be trained",
    infer_a_parameter: "'head.weight' cannot be trained",
    use_torch: "global generator of torch",
    use_numpy: "global generator of numpy",
    use_random: "global generator of random",
    use_entropy: "the same seed gave other weights",
    use_forked_state: "the same seed gave other weights",
    look_at_forget: "uses problem.forget; allowed: what it declares",
    profit_from_forget: "`reads` does not declare changed the result",
    reach_past_the_view: "rows of the source were fetched",
    relabel: "labels or rows of problem.retain were changed",
    say: r"printed 'done\\n'",
    complain: "printed 'careful",
    write: "wrote 'weights.pt'",
    overshoot: r"progress was called with \('scaling', 3, 2\)",
    change_dtype: "head.weight has dtype torch.float64; keep torch.float32",
    change_shape: r"head.weight has shape \(11, 32\); keep \(10, 32\)",
    add_a_name: "names in the state dict differ: .'mask'.",
    wrap: "return the model's own class, ConvNet",
    swap_a_module: "other names or classes",
    parametrise: "'head' kept a parametrisation",
    break_weights: "block1.0.weight holds NaN",
}


def test_check_method_accepts_a_method_that_keeps_the_contract():
    check_method(Scale())
    check_method(with_act(look_at_forget, declared=("forget", "retain")))


@pytest.mark.parametrize("act", VIOLATIONS, ids=lambda act: act.__name__)
def test_check_method_names_the_breach(act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=VIOLATIONS[act]):
        check_method(with_act(act))
    assert not list(tmp_path.iterdir())


def test_check_method_refuses_what_is_no_frozen_dataclass_with_defaults():
    @dataclass
    class Thawed:
        reads: ClassVar = ()

    @dataclass(frozen=True)
    class Bare:
        strength: float
        reads: ClassVar = ()

    @dataclass(frozen=True)
    class Misdeclared(Scale):
        reads: ClassVar = ("test",)

    @dataclass(frozen=True)
    class AsField(Scale):
        reads: tuple[str, ...] = ("retain",)  # pyright: ignore[reportIncompatibleVariableOverride]

    @dataclass(frozen=True)
    class Opaque(Scale):
        device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    for method, message in [
        (Thawed(), "Thawed is no frozen dataclass"),
        (Bare(1.0), "field 'strength' has no default"),
        (Misdeclared(), "`reads` is .'test',."),
        (AsField(), "`reads` is a field"),
        (Opaque(), "no JSON values"),
        (lambda problem: None, "no frozen dataclass"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check_method(method)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("record", [{"share": float("nan")}, {"rank": torch.tensor(1)}, [1]], ids=str)
def test_check_method_refuses_a_record_that_json_cannot_hold(record):
    @dataclass(frozen=True)
    class Recording(Scale):
        def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
            return super().__call__(problem)[0], record

    with pytest.raises(AssertionError, match="no dict of finite JSON values"):
        check_method(Recording())


def test_check_method_leaves_the_global_generators_alone():
    problem = small_problem(seed=5)  # the first import of scikit-learn draws a number
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    first = torch.rand(2).tolist(), np.random.rand(), random.random()
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    check_method(Scale(), problem)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == first


def test_check_method_takes_text_and_map_style_data_sets():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(20, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, tokens: Tensor, weight: Tensor) -> Tensor:
            return self.head((self.words(tokens) * weight[:, None, None]).mean(1))

    class Items(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            return torch.eye(4)[row % 3] + row / 100, row % 3

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    tokens = torch.randint(5, (30, 5), generator=generator) + 5 * labels[:, None]
    columns = {"tokens": tokens, "weight": torch.ones(30)}
    brief = Recipe(epochs=1, batch_size=10)
    for examples, model in [
        (examples_from(columns, labels), Bag().eval()),
        (examples_from(Items()), nn.Linear(4, 3).eval()),
    ]:
        parts = examples.take(examples.labels == 1), examples.take(examples.labels != 1)
        problem = Problem(model, *parts, forget_classes=(1,), classes=3, recipe=brief)
        for name in methods.names():
            if name in IMAGES_ONLY:
                with pytest.raises(InputError, match=r"allowed: images \[B, C, H, W\]"):
                    check_method(shortened(name), problem)
            elif name == "damp":  # both nets have no linear map but the head
                with pytest.raises(
                    InputError, match=r"damp: no map could be projected \(its head is the only linear map"
                ):
                    check_method(shortened(name), problem)
            elif isinstance(model, Bag) and name in CHANGING_INPUTS:
                with pytest.raises(InputError, match=f"data: {name} changes inputs by gradients; allowed: images"):
                    check_method(shortened(name), problem)
            else:
                check_method(shortened(name), problem)


# ------------------------------------------------------------------------------------ invalid settings


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LogitMask, {"logit": 0.0}, "logit: 0.0"),
        (LogitMask, {"logit": float("nan")}, "logit: nan"),
        (LogitMask, {"logit": -float("inf")}, "logit: -inf"),
        (BiasShift, {"accuracy": 1.0}, "accuracy: 1.0"),
        (BiasShift, {"accuracy": -0.1}, "accuracy: -0.1"),
        (BiasShift, {"accuracy": float("nan")}, "accuracy: nan"),
        (Finetune, {"epochs": 0}, "epochs: 0; allowed: a whole number, 1 or more"),
        (Finetune, {"batch_size": 0}, "batch_size: 0"),
        (Finetune, {"learning_rate": -1.0}, "learning_rate: -1.0"),
        (Finetune, {"learning_rate": float("inf")}, "learning_rate: inf"),
        (Retrain, {"epochs": -1}, "epochs: -1"),
        (Retrain, {"learning_rate": float("nan")}, "learning_rate: nan"),
    ],
)
def test_an_impossible_setting_is_refused_at_once(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)


@pytest.mark.parametrize("name", ["damp", "logit-mask", "bias-shift"])
def test_class_methods_refuse_samples_before_any_work(name):
    class Unused(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("work was begun")

    problem = replace(small_problem(), forget_classes=(), model=Unused())
    with pytest.raises(InputError, match=f"request: {name} cannot forget samples; allowed: ForgetClasses"):
        methods.method_class(name)()(problem)


# ------------------------------------------------------------------------------------------- retrain


@pytest.mark.parametrize("architecture", ["convnet,width=8", "resnet8,width=4", VIT])
def test_retrain_draws_every_parameter_anew(architecture):
    trained = small_problem(architecture).model
    fresh = reinitialised(trained, seed=4)
    assert type(fresh) is type(trained)
    for (name, old), new in zip(trained.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new), name
    assert same_weights(fresh, reinitialised(trained, seed=4))
    assert not same_weights(fresh, reinitialised(trained, seed=5))


def test_retraining_does_not_depend_on_what_was_trained():
    problem = small_problem("resnet8,width=4")
    other = replace(problem, model=small_problem("resnet8,width=4", seed=1).model)
    assert not same_weights(problem.model, other.model)
    results = [Retrain(epochs=1)(given)[0] for given in (problem, other)]
    assert same_weights(*results)


class Scaled(nn.Module):
    """A net with a learnable number that no module knows how to reset."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.temperature * self.head(images.flatten(1))


def test_retrain_refuses_a_parameter_that_it_cannot_draw_anew():
    problem = small_problem(Scaled())
    with pytest.raises(InputError, match=r"model: temperature \(1 in all\) was not re-initialised"):
        Retrain(epochs=1)(problem)


def test_retrain_builds_a_net_by_its_name_where_modules_cannot_reset_themselves(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.ones(()))\n"
        "        self.head = torch.nn.Linear(64, 10)\n"
        "    def forward(self, images):\n"
        "        return self.scale * self.head(images.flatten(1))\n"
        "def net():\n"
        "    return Net()\n"
    )
    problem = small_problem(f"{file}:net")
    with torch.no_grad():
        problem.model.get_parameter("scale").fill_(7.0)
    fresh = reinitialised(problem.model, seed=0)
    assert fresh.get_parameter("scale").item() == 1.0
    assert not torch.equal(fresh.get_parameter("head.weight"), problem.model.get_parameter("head.weight"))


def test_retrain_never_starts_from_a_pretrained_net():
    problem = small_problem(Scaled())
    named = replace(card_of(problem.model), architecture="timm:resnet18,pretrained=true")
    with pytest.raises(InputError, match="temperature"):
        reinitialised(with_card(problem.model, named), seed=0)


def test_retrain_builds_a_hugging_face_net_from_its_configuration():
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 10}
    net = ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **shape)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5)  # whatever equals this later was carried over
    fresh = reinitialised(net, seed=0)
    for name, parameter in fresh.named_parameters():
        assert not (parameter == net.get_parameter(name)).any(), name
        assert parameter.isfinite().all()
    assert same_weights(fresh, reinitialised(net, seed=0))


def test_retrain_starts_from_the_recipe_of_the_original():
    problem = replace(small_problem(mlp()), recipe=Recipe(epochs=2, learning_rate=0.5, optimiser="sgd", clip=0.0))
    steps: list[tuple[str, int, int]] = []
    _, record = Retrain()(replace(problem, progress=lambda *step: steps.append(step)))
    assert record == {"epochs": 2, "reinitialised": 4}
    assert steps[-1] == ("retrain", 12, 12)  # 360 examples in batches of 64, twice
    assert Retrain(epochs=1)(problem)[1]["epochs"] == 1


# ------------------------------------------------------------------------------------- the controls


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("net", NETS)
def test_a_masked_class_never_wins(net, classes):
    problem = problem_for(net, classes)
    model, _ = LogitMask()(problem)
    for examples in (problem.forget, problem.retain):
        assert not torch.isin(predict(model, examples).argmax(1), torch.tensor(classes)).any()


@pytest.mark.parametrize("method", [LogitMask(), BiasShift()], ids=["logit-mask", "bias-shift"])
@pytest.mark.parametrize("net", ["convnet", "resnet8", "vit"])
def test_the_controls_leave_every_other_logit_and_weight_alone(net, method):
    problem = problem_for(net, (1, 4))
    model, _ = method(problem)
    others = torch.tensor([k for k in range(10) if k not in (1, 4)])
    for examples in (problem.forget, problem.retain):
        before, after = predict(problem.model, examples), predict(model, examples)
        assert torch.equal(before[:, others], after[:, others])
        assert (after[:, [1, 4]] < before[:, [1, 4]]).all()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, problem.model.get_parameter(name))]
    assert changed == ["head.bias"]


def test_a_masked_head_without_bias_differs_in_the_forgotten_rows_alone():
    problem = problem_for("no bias in the head", (1, 4))
    model, record = LogitMask()(problem)
    before, after = (net.get_parameter("3.weight") for net in (problem.model, model))
    others = [k for k in range(10) if k not in (1, 4)]
    assert torch.equal(before[others], after[others])
    torch.testing.assert_close(after[1], before[others].mean(0))
    assert record["edited"] == "weight rows"


@pytest.mark.parametrize("accuracy", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("count", [40, 33, 7, 1])
def test_bias_shift_leaves_at_most_the_stated_share(accuracy, count):
    problem = small_problem("resnet8,width=4")
    few = replace(problem, forget=problem.forget.take(torch.arange(count)))
    model, record = BiasShift(accuracy=accuracy)(few)
    recognised = (predict(model, few.forget).argmax(1) == 3).sum().item()
    assert recognised <= accuracy * count
    assert recognised >= accuracy * count - 2  # and takes no more away than it must
    assert record["shift"] > 0


def test_bias_shift_of_a_class_that_never_wins_is_next_to_nothing():
    problem = small_problem(mlp())
    masked, _ = LogitMask()(problem)
    _, record = BiasShift()(replace(problem, model=masked))
    assert record["shift"] == pytest.approx(1e-3)


def test_the_controls_refuse_a_head_of_another_size():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Unflatten(1, (10, 2)), nn.AvgPool1d(2), nn.Flatten())
    problem = small_problem(net)
    for method in (LogitMask(), BiasShift()):
        with pytest.raises(InputError, match="the head has 20 outputs; allowed: 10, one per class"):
            method(problem)


# ----------------------------------------------------------------------------------------- finetune


def test_finetuning_lets_the_class_fade():
    problem = small_problem("resnet8,width=4")
    model, _ = Finetune(epochs=6, learning_rate=0.1)(problem)
    assert recall(model, problem.forget) < 0.5 * recall(problem.model, problem.forget)
    assert recall(model, problem.retain) > 0.9


@pytest.mark.parametrize(("net", "rate", "optimiser"), [("resnet8", 0.01, "sgd"), ("convnet", 1e-4, "adamw")])
def test_finetuning_goes_on_at_a_tenth_of_the_usual_rate(net, rate, optimiser):
    problem = problem_for(net)
    assert Finetune(epochs=1)(problem)[1] == {"learning_rate": pytest.approx(rate), "optimiser": optimiser}
    assert Finetune(epochs=1, learning_rate=0.5)(problem)[1]["learning_rate"] == 0.5
    adam = replace(problem, recipe=Recipe(optimiser="adamw"))
    assert Finetune(epochs=1)(adam)[1]["optimiser"] == "adamw"


# ------------------------------------------------------------------------------------------- forget()


@pytest.fixture(scope="module")
def digits() -> Data:
    return rasura.load_data("digits")


def keep_still(problem: Problem, model: nn.Module) -> nn.Module:
    return problem.copy_of_model().eval()


def zero_the_head(problem: Problem, model: nn.Module) -> None:
    nn.init.zeros_(model.get_parameter("head.weight"))


def test_forget_returns_a_record_and_adds_it_to_the_models_history(digits, tmp_path):
    model = small_problem().model
    with warnings.catch_warnings():
        outcome = forget(model, digits, ForgetClasses(["3"]), LogitMask(), seed=7)
    effect = outcome.record["effect"]
    assert outcome.record["method"] == "logit-mask" and outcome.record["seed"] == 7
    assert outcome.record["settings"] == {"logit": -1e4}
    assert outcome.record["request"] == {"forget": "3", "classes": [3]}
    assert effect["forget_accuracy_after"] == 0
    assert effect["forget_accuracy_before"] == pytest.approx(
        recall(model, digits.train.take(digits.train.labels == 3)), abs=1e-9
    )
    assert outcome.seconds >= 0 and outcome.warnings == ()
    assert card_of(model).history == ()
    second = forget(outcome.model, digits, ForgetClasses([4, "5"]), BiasShift())
    history = card_of(second.model).history
    assert [entry["method"] for entry in history] == ["logit-mask", "bias-shift"]
    assert history[1]["request"] == {"forget": "4, 5", "classes": [4, 5]}
    second.save(tmp_path / "out")
    loaded = rasura.load_model(tmp_path / "out")
    assert same_weights(loaded, second.model)
    assert [entry["method"] for entry in card_of(loaded).history] == ["logit-mask", "bias-shift"]


def test_forget_gives_the_same_bits_for_the_same_seed(digits):
    model = small_problem().model
    results = [forget(model, digits, ForgetClasses([3]), Finetune(epochs=1), seed=seed).model for seed in (1, 1, 2)]
    assert same_weights(results[0], results[1])
    assert not same_weights(results[0], results[2])


def test_forget_shows_the_method_only_what_it_declares(digits):
    seen = {}

    @dataclass(frozen=True)
    class Looking(Scale):
        reads: ClassVar = ("forget",)

        def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
            seen.update(forget=problem.forget, retain=problem.retain)
            return problem.copy_of_model().eval().requires_grad_(True), {}

    with pytest.raises(InputError, match="looking: no weight changed; allowed"):
        forget(small_problem().model, digits, ForgetClasses([3]), Looking())
    with pytest.raises(UndeclaredError):
        len(seen["retain"])
    assert seen["forget"].labels.unique().tolist() == [3]


def test_forget_raises_the_alarm_when_nothing_was_forgotten(digits):
    outcome = forget(small_problem().model, digits, ForgetClasses([3]), Scale(factor=0.999))
    assert len(outcome.warnings) == 1
    assert outcome.warnings[0].startswith("no effect: accuracy on the examples to forget is ")


def test_forget_raises_the_alarm_when_the_model_collapsed(digits):
    outcome = forget(small_problem().model, digits, ForgetClasses([3]), with_act(zero_the_head))
    assert any(line.startswith("collapse: accuracy on the examples to keep is ") for line in outcome.warnings)


def test_a_sample_request_raises_no_alarm_for_lasting_accuracy(digits):
    outcome = forget(small_problem().model, digits, ForgetSamples(range(5)), Finetune(epochs=1))
    assert outcome.warnings == ()
    assert outcome.record["request"] == {"forget": "5 training examples", "classes": []}


def test_forget_refuses_a_result_that_is_no_result(digits):
    for act, message in [(keep_still, "acting: no weight changed"), (break_weights, "acting: block1.0.weight became")]:
        with pytest.raises(InputError, match=message):
            forget(small_problem().model, digits, ForgetClasses([3]), with_act(act))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ForgetClasses(["33"]), "class: '33' is unknown; did you mean '3'"),
        (ForgetClasses([10]), "class: 10 is unknown"),
        (ForgetClasses([]), "classes: 0 of 10 to forget"),
        (ForgetClasses(range(10)), "classes: 10 of 10 to forget"),
        (ForgetSamples([5000]), "indices: 5000 is not in the training set"),
        (ForgetSamples([1, 1]), "indices: 1 given twice"),
        (ForgetSamples([]), "forget: the request leaves 0 training examples to forget"),
        ("3", "request: got '3'"),
    ],
    ids=str,
)
def test_forget_refuses_requests_that_cannot_be_served(digits, request_, message):
    with pytest.raises(InputError, match=message):
        forget(small_problem().model, digits, request_, LogitMask())


@pytest.mark.parametrize("method", [Damp(), LogitMask(), BiasShift()], ids=name_of)
def test_forget_says_when_a_method_knows_classes_only(digits, method):
    with pytest.raises(InputError, match=f"{name_of(method)} cannot forget samples"):
        forget(small_problem().model, digits, ForgetSamples([1, 2]), method)


def changed_data(digits: Data, **changes: Any) -> Data:
    if "transform" in changes:
        parts = {part: replace(getattr(digits, part), transform=changes["transform"]) for part in ("train", "test")}
        return replace(digits, **parts)
    return replace(digits, **changes)


def test_forget_refuses_data_that_the_model_was_not_trained_on(digits):
    model = small_problem().model
    stored = torch.rand(20, 1, 12, 12), torch.arange(20) % 10
    colour = torch.rand(20, 3, 8, 8), torch.arange(20) % 10
    more = tuple(str(number) for number in range(11))
    for data, message in [
        (Data.from_tensors(stored, stored, digits.classes), r"inputs of shape \(1, 12, 12\); allowed: \(1, 8, 8\)"),
        (Data.from_tensors(colour, colour, digits.classes), r"inputs of shape \(3, 8, 8\); allowed: \(1, 8, 8\)"),
        (changed_data(digits, transform=Standardise((0.9,), (2.0,))), "standardised with mean .0.9,."),
        (changed_data(digits, classes=more), "classes: the model names no '10' of digits"),
        (changed_data(digits, classes=tuple(reversed(digits.classes))), "classes: the model calls most of "),
    ]:
        with pytest.raises(InputError, match=message):
            forget(model, data, ForgetClasses([3]), LogitMask())


def test_forget_refuses_images_that_an_unknown_net_cannot_take():
    images = torch.rand(20, 1, 12, 12), torch.arange(20) % 10
    with pytest.raises(InputError, match=r"data: the model cannot take inputs of shape \(2, 1, 12, 12\)"):
        forget(mlp().eval(), Data.from_tensors(images, images), ForgetClasses([3]), LogitMask())


def test_an_unknown_method_is_answered_with_the_nearest_name():
    with pytest.raises(InputError, match="method: 'logit-msk' is unknown; did you mean 'logit-mask'"):
        methods.method_class("logit-msk")
    with pytest.raises(AttributeError, match=r"rasura.methods has no 'Dmap'; it has .*Damp"):
        _ = methods.Dmap  # pyright: ignore[reportAttributeAccessIssue]


def test_methods_are_found_by_their_files():
    assert {"damp", "retrain", "finetune", "logit-mask", "bias-shift"} <= set(methods.names())
    for name in methods.names():
        kind = methods.method_class(name)
        assert name_of(kind()) == name
        assert getattr(methods, kind.__name__) is kind
        assert kind.__name__ in dir(methods)
        assert isinstance(kind(), rasura.Method)
