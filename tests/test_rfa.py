"""Residual feature alignment: the adapters, the loss against NumPy, and what the method promises."""

import copy
import gc
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rasura
from rasura import Data, ForgetClasses, ForgetSamples, InputError, Problem, Recipe, forget, predict
from rasura.activations import Point, anatomy
from rasura.data import examples_from
from rasura.files import hash_of_file, hash_of_json
from rasura.methods._alignment import Alignment, Goals, endless, read, summary
from rasura.methods.rfa import Rfa, _alarms
from rasura.models import build_model, card_of, fresh_model, hash_of_model, load_model, to_card
from rasura.models.adapters import (
    CONFIG,
    NOTE,
    WEIGHTS,
    adapters_off,
    largest_rank,
    merged,
    takes_adapter,
    with_adapters,
    with_new_adapter,
    without_adapters,
)
from rasura.testing import check_method, small_problem
from rasura.training import Batch

VIT = "vit,patch=2,width=16,depth=2"
QUICK = Rfa(steps=6, batch_size=32, forget_batch_size=16, unseen_steps=1)


def bare() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10, bias=False))


class Gpt(nn.Module):
    """The layers of a GPT-2 block: Conv1D beside Linear."""

    def __init__(self):
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.first, self.head = Conv1D(12, 64), nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images.flatten(1)).relu())


NETS = {"convnet": "convnet,width=8", "resnet8": "resnet8,width=4", "vit": VIT, "bare head": bare, "Conv1D": Gpt}


def problem_for(net: str, classes: tuple[int, ...] = (3,)) -> Problem:
    made = NETS[net]
    torch.manual_seed(0)
    return small_problem(made if isinstance(made, str) else made(), classes)


def for_samples(problem: Problem, count: int = 40) -> Problem:
    """The same model, asked to forget examples of all classes."""
    chosen = problem.retain.take(torch.arange(count) * 9)
    rest = torch.ones(len(problem.retain), dtype=torch.bool)
    rest[torch.arange(count) * 9] = False
    return replace(problem, forget=chosen, retain=problem.retain.take(rest), forget_classes=())


def adapted_net(net: str, seed: int = 0):
    model = problem_for(net).model
    names = anatomy(model, torch.zeros(2, 1, 8, 8)).operators
    return model, with_new_adapter(
        copy.deepcopy(model), {name: min(3, largest_rank(model.get_submodule(name))) for name in names}, seed
    )


def stirred(adapted):
    """The adapters as if they had learned something."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted


# ------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("net", NETS)
def test_a_new_adapter_changes_no_bit_and_an_old_one_can_be_folded_in_or_taken_off(net):
    model, adapted = adapted_net(net)
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    points = anatomy(model, images).points
    at_rest, features = read(model, images, points)
    logits, same = read(adapted.get_base_model(), images, points)
    assert torch.equal(logits, at_rest)
    assert all(torch.equal(one, other) for one, other in zip(features, same, strict=True))
    stirred(adapted)
    with adapters_off(adapted):
        assert torch.equal(adapted(images), at_rest)
    said = adapted(images)
    assert not torch.allclose(said, at_rest, atol=1e-2)
    off = without_adapters(copy.deepcopy(adapted))
    assert hash_of_model(off) == hash_of_model(model)
    folded = merged(adapted)
    assert torch.allclose(folded(images), said, atol=1e-5)
    assert type(folded) is type(model) and list(folded.state_dict()) == list(model.state_dict())
    assert all(parameter.requires_grad for parameter in folded.parameters())


def test_names_are_whole_names():
    # resnet8's stem is called conv1, as is the first convolution of every block.
    adapted = with_new_adapter(copy.deepcopy(problem_for("resnet8").model), {"conv1": 2}, 0)
    assert {name.split(".lora")[0] for name, _ in adapted.get_base_model().named_parameters() if "lora" in name} == {
        "conv1"
    }


def test_grouped_and_tied_layers_get_no_adapter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head, self.own = nn.Embedding(6, 4), nn.Linear(4, 6), nn.Linear(4, 4)
            self.head.weight = self.words.weight

    assert not takes_adapter(Tied(), "head")
    assert takes_adapter(Tied(), "own")
    assert not takes_adapter(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), "0")


# ------------------------------------------------------------------------------------------- the loss


class Scaled(nn.Module):
    """Two layers that scale their inputs: features and logits are known."""

    def __init__(self, *factors: float):
        super().__init__()
        self.first, self.last = nn.Identity(), nn.Identity()
        self.factors = nn.Parameter(torch.tensor(factors, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs * self.factors[0]) * self.factors[1])


INPUTS = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [-0.5, 0.25, 0.0], [1.0, 1.5, -2.0]])
LABELS = np.array([0, 2, 1, 1])
POINTS = (Point("first"), Point("last"))
TEACHER, STUDENT = Scaled(1, 1), Scaled(1.5, 0.8)


def aligned(goals: Goals, gamma: float = 2.0, weight: float = 1.0) -> tuple[float, Alignment]:
    """The loss with the first two examples retained and the last two to forget."""
    parts = [
        examples_from(torch.tensor(INPUTS[rows]).double(), torch.tensor(LABELS[rows])) for rows in ([0, 1], [2, 3])
    ]
    forget_part = replace(parts[1], source=torch.tensor(INPUTS[2:]))
    loss = Alignment(POINTS, forget_part, goals, gamma, weight, 2, lambda _: nullcontext(TEACHER), seed=0)
    batch = Batch(torch.tensor(INPUTS[:2]), parts[0].labels, torch.arange(2))
    loss._drawn = iter([torch.arange(2)])
    return loss(STUDENT, batch).item(), loss


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def by_hand(goal: np.ndarray, answers: np.ndarray, closed: list[int], gamma: float = 2.0, weight: float = 1) -> float:
    """The formula of `Alignment`, in NumPy. Goals are those of layers that scale by 1."""
    said, student = INPUTS.copy(), INPUTS * 1.2
    said[:, closed] = -np.inf
    said[2:] = answers
    wanted = np.exp(log_softmax(said))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = weight * np.where(wanted > 0, wanted * (np.log(wanted) - log_softmax(student)), 0).sum(1)
    where = np.concatenate([INPUTS[:2], goal])
    for scale in (1.5, 1.2):
        terms = terms + ((INPUTS * scale - where) ** 2).sum(1) / (INPUTS**2).sum(1)
    return terms[:2].mean() + gamma * terms[2:].mean()


def masked(closed: list[int]) -> np.ndarray:
    answers = INPUTS[2:].copy()
    answers[:, closed] = -np.inf
    return answers


@pytest.mark.parametrize(("gamma", "weight"), [(0.5, 1.0), (2.0, 1.0), (2.0, 10.0)])
def test_the_loss_is_the_stated_one(gamma, weight):
    value, _ = aligned(Goals("retain-centroid", (1,)), gamma, weight)
    centroid = np.tile(INPUTS[:2].mean(0), (2, 1))
    assert value == pytest.approx(by_hand(centroid, masked([1]), [1], gamma, weight), rel=1e-6)


def test_settings_left_open_follow_the_request():
    problem = problem_for("convnet")
    for given, expected in ((problem, (1.0, 1.0, 64, 32)), (for_samples(problem), (5.0, 10.0, 32, 64))):
        found = Rfa(answers="partner").resolved(given)
        assert (found.gamma, found.answer_weight, found.batch_size, found.forget_batch_size) == expected
        loss = Rfa(answers="partner").loss(given, POINTS, lambda _: nullcontext(TEACHER))
        assert (loss.gamma, loss.answer_weight, loss.forget_batch_size) == (*expected[:2], expected[3])
    assert Rfa(gamma=3.0, batch_size=7).resolved(problem) == replace(Rfa().resolved(problem), gamma=3.0, batch_size=7)


def test_the_nearest_retained_example_is_the_nearest():
    distances = ((INPUTS[2:, None] - INPUTS[None, :2]) ** 2).sum(2)
    nearest = INPUTS[:2][distances.argmin(1)]
    value, _ = aligned(Goals("nearest-retain", (1,)))
    assert value == pytest.approx(by_hand(nearest, masked([1]), [1]), rel=1e-6)


def test_a_sampled_partner_is_of_the_stated_class_and_lends_its_answers():
    partners = torch.tensor([2, 0])  # classes of the second and the first retained example
    value, _ = aligned(Goals("retain-sample", (), borrowed=True, partners=partners))
    lent = INPUTS[[1, 0]]
    assert value == pytest.approx(by_hand(lent, lent, []), rel=1e-6)


def test_given_answers_are_learned_and_an_example_without_partner_keeps_only_them():
    answers = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    partners = torch.tensor([0, 1])  # nobody in the batch has class 1
    value, _ = aligned(Goals("retain-sample", (), torch.tensor(answers), partners=partners))
    goal = np.stack([INPUTS[0], INPUTS[0]])
    alone = sum(((INPUTS[3] * scale - INPUTS[0]) ** 2).sum() / (INPUTS[3] ** 2).sum() for scale in (1.5, 1.2))
    assert value == pytest.approx(by_hand(goal, answers, []) - 2.0 * alone / 2, rel=1e-6)


def test_an_example_without_partner_borrows_nothing():
    value, _ = aligned(Goals("retain-sample", borrowed=True, partners=torch.tensor([0, 1])))
    goal, said = np.stack([INPUTS[0], INPUTS[0]]), np.stack([INPUTS[0], INPUTS[3]])
    alone = sum(((INPUTS[3] * scale - INPUTS[0]) ** 2).sum() / (INPUTS[3] ** 2).sum() for scale in (1.5, 1.2))
    assert value == pytest.approx(by_hand(goal, said, []) - 2.0 * alone / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("kept", "distance", "warned"),
    [(0.1, [1.0, 0.5], []), (0.7, [1.0, 0.5], ["moved by 70%"]), (0.1, [1.0, 1.1], ["farther from their goal at b"])],
)
def test_alarms(kept, distance, warned):
    found = {"layers": ["a", "b"], "retain": [[0.2, kept], [0.2, 0.1]], "distance": [[1.0, 2.0], distance]}
    lines = list(_alarms(found))
    assert len(lines) == len(warned) and all(part in line for part, line in zip(warned, lines, strict=True))


def test_the_trace_holds_residual_norms():
    _, loss = aligned(Goals("retain-centroid"))
    found = summary(loss.trace, POINTS)
    assert found["layers"] == ["first", "last"] and found["steps"] == [1]
    assert [one[0] for one in found["retain"]] == pytest.approx([0.5, 0.2])
    assert [one[0] for one in found["forget"]] == pytest.approx([0.5, 0.2])


def test_drawing_visits_all_before_any_again():
    drawn = endless(5, 3, torch.Generator().manual_seed(0))
    first = torch.cat([next(drawn) for _ in range(5)])
    assert all(sorted(part.tolist()) == list(range(5)) for part in first.split(5))


# ------------------------------------------------------------------------------------------ the method


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("net", ["resnet8", "Conv1D"])
def test_the_contract_holds_for_classes(net, classes):
    check_method(QUICK, problem_for(net, classes))  # other nets: test_methods.py


@pytest.mark.parametrize("answers", ["unseen", "partner"])
def test_the_contract_holds_for_samples(answers):
    check_method(replace(QUICK, answers=answers), for_samples(problem_for("convnet")))


def test_the_contract_holds_for_an_encoder_of_texts():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    ids = torch.randint(4, (60, 6), generator=generator) + 4 * labels[:, None] + 2
    examples = examples_from({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels)
    torch.manual_seed(0)
    model = build_model("distilbert,vocabulary=16,width=8,depth=1,length=6", classes=3).eval()
    parts = examples.take(labels == 1), examples.take(labels != 1)
    problem = Problem(model, *parts, forget_classes=(1,), classes=3)
    check_method(replace(QUICK, layers=("all",)), problem)
    result, record = QUICK(problem)
    assert vars(result).keys() == vars(model).keys()
    assert "pre_classifier" in record["ranks"]


def off_the_line(layers: nn.Module, points: Tensor, labels: Tensor) -> float:
    """How far class 1's mean lies from the line between the means of 0 and 2, as a share of that line's length."""
    with torch.no_grad():
        features = layers(points)
    start, forgotten, end = (features[labels == number].mean(0) for number in range(3))
    way = end - start
    along = ((forgotten - start) @ way / way.square().sum()).clamp(0, 1)
    return ((forgotten - start - along * way).norm() / way.norm()).item()


@pytest.mark.parametrize("target", ["retain-sample", "retain-centroid", "nearest-retain"])
def test_a_planted_class_moves_to_its_goal_and_the_others_stay(target):
    """Three clouds of points: one hidden layer can move one of them and leave the others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    points = 3 * torch.eye(3).repeat(1, 2)[labels] + 0.3 * torch.randn(300, 6, generator=generator)
    examples = examples_from(points, labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    rasura.fit(model, examples, Recipe(epochs=10), 0)
    parts = examples.take(labels == 1), examples.take(labels != 1)
    problem = Problem(model, *parts, forget_classes=(1,), classes=3)
    forgetful, record = Rfa(target=target, steps=300, learning_rate=0.02)(problem)
    found = record["residuals"]
    assert found["retain"][-1][-1] < 0.6 * max(found["retain"][-1])  # it rises and falls
    most = 0.8 if target == "retain-sample" else 0.5  # a sample's goal is another one at each step
    assert all(layer[-1] < most * layer[0] for layer in found["distance"])
    if target != "retain-sample":
        assert found["distance"][-1][-1] < 0.35 * found["distance"][-1][0]
    for depth in (1, 2):
        before, after = (off_the_line(net[:depth], points, labels) for net in (model, forgetful))
        assert after < 0.5 * before
    share = [(predict(forgetful, part).argmax(1) == part.labels).double().mean().item() for part in parts]
    assert share[0] == 0 and share[1] > 0.98


def test_only_adapters_are_trained_and_statistics_stay():
    problem = problem_for("resnet8")
    before = problem.model.state_dict()
    adapted, _ = replace(QUICK, layers=("layer2", "head"))(problem), None
    after = adapted[0].state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"layer2.0.{name}.weight" for name in ("conv1", "conv2", "shortcut.0")} | {"head.weight"}
    carrying, record = QUICK.adapt(problem)
    own = {name: tensor for name, tensor in carrying.named_parameters() if "lora" in name}
    assert record["trainable"] == sum(map(torch.numel, own.values()))
    assert hash_of_model(without_adapters(carrying)) == hash_of_model(problem.model)


def test_there_is_one_copy_of_the_weights_while_it_learns():
    problem = problem_for("convnet")
    weight = problem.model.get_submodule("block3.0").weight.detach()

    def copies() -> int:
        alive = [one for one in gc.get_objects() if type(one) is nn.Parameter and one.shape == weight.shape]
        return len({one.data_ptr() for one in alive if torch.equal(one.detach(), weight)})

    gc.collect()
    before, during = copies(), []
    replace(QUICK, steps=2)(replace(problem, progress=lambda *_: during.append(copies())))
    assert during == [before + 1] * 2  # the model that will be returned, and no teacher


def test_settings_of_layers_and_rank():
    problem = problem_for("resnet8")
    _, record = replace(QUICK, rank=12, layers=("all",))(problem)
    assert record["ranks"]["conv1"] == 4 and record["ranks"]["layer3.0.conv2"] == 12
    _, record = QUICK(problem)
    assert set(record["without_adapter"]) == {"conv1", "layer1.0.conv1", "layer1.0.conv2"}  # before the middle stage
    assert record["residuals"]["retain"][0] == [0.0] * QUICK.steps
    _, record = replace(QUICK, layers=("layer3",), aligned=("layer3",))(problem)
    assert set(record["ranks"]) == {"layer3.0.conv1", "layer3.0.conv2", "layer3.0.shortcut.0"}
    assert record["residuals"]["layers"] == ["layer3"]
    assert "conv1" in record["without_adapter"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 11, "layers": ("head",)}, "rank: 11; allowed: 1 to 10, which head can have at most"),
        ({"layers": ("layer9",)}, "layers: 'layer9' is unknown; did you mean 'layer"),
        ({"layers": ("all", "head")}, "layers: 'all' is unknown"),
        ({"aligned": ("hed",)}, "aligned: 'hed' is unknown; did you mean 'head'"),
    ],
)
def test_settings_that_the_net_cannot_have_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        replace(QUICK, **settings)(problem_for("resnet8"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -1}, "rank: -1"),
        ({"gamma": -1}, "gamma: -1"),
        ({"steps": 0}, "steps: 0"),
        ({"answer_weight": -1}, "answer_weight: -1"),
        ({"batch_size": -1}, "batch_size: -1"),
        ({"unseen_steps": 0}, "unseen_steps: 0"),
        ({"target": "retain-smaple"}, "did you mean 'retain-sample'"),
        ({"answers": "none"}, "answers: 'none' is unknown"),
    ],
)
def test_impossible_settings_are_refused_at_once(settings, message):
    with pytest.raises(InputError, match=message):
        Rfa(**settings)


def test_masked_answers_need_classes():
    with pytest.raises(InputError, match="request: rfa with masked answers cannot forget samples"):
        replace(QUICK, answers="masked")(for_samples(problem_for("convnet")))


# ------------------------------------------------------------------------------------- stored adapters


@pytest.fixture(scope="module")
def digits() -> Data:
    return rasura.load_data("digits")


@pytest.fixture(scope="module")
def original(digits: Data) -> nn.Module:
    torch.manual_seed(0)
    model = fresh_model(to_card("convnet,width=8", digits))
    return rasura.fit(model, digits.train, Recipe(epochs=2), 0)


@pytest.fixture(scope="module")
def stored(digits, original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for number in (3, 5):
        outcome = forget(original, digits, ForgetClasses([number]), replace(QUICK, keep_adapter=True))
        outcome.save(folder / str(number))
    return folder


def test_a_stored_adapter_is_the_forgetting(digits, original, stored):
    folder = stored / "3" / "adapter"
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    adapted = with_adapters(original, [folder])
    assert torch.allclose(predict(adapted, digits.test), predict(load_model(stored / "3"), digits.test), atol=1e-5)
    folded = merged(adapted)
    assert hash_of_model(folded) == hash_of_model(load_model(stored / "3"))
    assert card_of(folded).history[0]["request"]["classes"] == [3]


def test_peft_itself_reads_a_stored_adapter(digits, original, stored):
    import warnings

    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(copy.deepcopy(original), str(stored / "3" / "adapter")).eval()
    images, _ = digits.test.batch(torch.arange(8))
    assert torch.allclose(adapted(images), load_model(stored / "3")(images), atol=1e-5)


def test_several_adapters_add_up_on_one_base_and_come_off_one_by_one(original, stored):
    adapted = with_adapters(original, [stored / name / "adapter" for name in ("3", "5")])
    base, *edited = (model.state_dict() for model in (original, load_model(stored / "3"), load_model(stored / "5")))
    both = merged(copy.deepcopy(adapted)).state_dict()
    sums = {name: edited[0][name] + edited[1][name] - tensor for name, tensor in base.items()}
    torch.testing.assert_close(both, sums, atol=1e-5, rtol=0)
    # Both have moved weights by far more than what they are compared by.
    assert all(max((both[name] - one[name]).abs().max() for name in base) > 1e-2 for one in (base, *edited))
    for gone, left in zip(("forgetting_2", "forgetting_1"), edited, strict=True):
        alone = copy.deepcopy(adapted)
        alone.delete_adapter(gone)
        torch.testing.assert_close(merged(alone).state_dict(), left, atol=1e-5, rtol=0)
    assert hash_of_model(without_adapters(adapted)) == hash_of_model(original)


def test_an_adapter_of_another_base_is_refused(original, stored, tmp_path):
    other = load_model(stored / "5")
    with pytest.raises(InputError, match="is of another base model"):
        with_adapters(other, [stored / "3" / "adapter"])
    with pytest.raises(InputError, match="holds no adapter"):
        with_adapters(original, [tmp_path])


def copied(stored, tmp_path):
    return shutil.copytree(stored / "3" / "adapter", tmp_path / "adapter")


def sign(folder) -> None:
    """Make the hashes those of the files, as whoever makes an adapter can."""
    note = {field: value for field, value in json.loads((folder / NOTE).read_text()).items() if field != "hash"}
    note["sha256"] = {name: hash_of_file(folder / name) for name in (CONFIG, WEIGHTS)}
    (folder / NOTE).write_text(json.dumps({**note, "hash": hash_of_json(note)}))


def configure(folder, change) -> None:
    content = json.loads((folder / CONFIG).read_text())
    change(content)
    (folder / CONFIG).write_text(json.dumps(content))


@pytest.mark.parametrize("field", ["sha256", "hash", "history"])
def test_an_adapter_whose_note_was_changed_is_refused(field, original, stored, tmp_path):
    folder = copied(stored, tmp_path)
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps({key: value for key, value in note.items() if key != field}))
    with pytest.raises(InputError, match=f"^adapter: .*{NOTE} (holds no hashes|was changed or damaged).*; allowed"):
        with_adapters(original, [folder])


HOSTILE = {
    "a hundredfold": (lambda c: c.update(lora_alpha=100 * c["lora_alpha"]), "lora_alpha"),
    "a hundredfold in a layer": (lambda c: c["alpha_pattern"].update({min(c["alpha_pattern"]): 800}), "alpha_pattern"),
    "code": (lambda c: c.update(megatron_config={"a": 1}, megatron_core="stranger.code"), "megatron_co"),
    "a class": (lambda c: c.update(auto_mapping={"parent_library": "os", "base_model_class": "x"}), "auto_mapping"),
    "another kind": (lambda c: c.update(peft_type="PROMPT_TUNING"), "peft_type"),
    "an endless pattern": (lambda c: c.update(target_modules="(([a-z0-9]+)*.?)*!"), "target_modules"),
    "an endless rank": (lambda c: c["rank_pattern"].update({"(([a-z0-9]+)*.?)*!": 2}), "rank_pattern"),
    "an endless exclusion": (lambda c: c.update(exclude_modules="(([a-z0-9]+)*.?)*!"), "exclude_modules"),
    "an unknown field": (lambda c: c.update(run="import os"), "run = 'import os'"),
    "no ranks": (lambda c: c.update(rank_pattern=None), "gives no layer of the model a rank"),
    "a rank of a billion": (lambda c: c["rank_pattern"].update({min(c["rank_pattern"]): 10**9}), "rank 1000000000 of"),
    "a true rank": (lambda c: c["rank_pattern"].update({min(c["rank_pattern"]): True}), "rank True of"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_adapter_says_only_what_ours_say(what, original, stored, tmp_path):
    folder, (change, said) = copied(stored, tmp_path), HOSTILE[what]
    configure(folder, change)
    with pytest.raises(InputError, match=f"{CONFIG} was changed or damaged"):
        with_adapters(original, [folder])
    sign(folder)
    with pytest.raises(InputError, match=f"^adapter: .*{said}.*; allowed"):
        with_adapters(original, [folder])


def test_an_adapter_that_its_maker_signed_again_still_loads(original, stored, tmp_path):
    folder = copied(stored, tmp_path)
    configure(folder, lambda content: content.update(peft_version="0.0", field_of_a_later_version=None))
    sign(folder)
    assert hash_of_model(merged(with_adapters(original, [folder]))) == hash_of_model(load_model(stored / "3"))


@pytest.mark.parametrize("signed", [True, False])
def test_a_truncated_adapter_is_refused_in_one_line(signed, original, stored, tmp_path):
    folder = copied(stored, tmp_path)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200])
    if signed:
        sign(folder)
    said = "is truncated or not a file of weights" if signed else "was changed or damaged"
    with pytest.raises(InputError, match=f"{said}.*; allowed"):
        with_adapters(original, [folder])


def test_an_adapter_of_no_numbers_is_refused(original, stored, tmp_path):
    folder = copied(stored, tmp_path)
    save_file({name: tensor * float("nan") for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(InputError, match="holds NaN or infinite weights"):
        with_adapters(original, [folder])


def test_changed_weights_of_an_adapter_are_refused(original, stored, tmp_path):
    folder = shutil.copytree(stored / "3" / "adapter", tmp_path / "adapter")
    save_file({name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    with pytest.raises(InputError, match=f"{WEIGHTS} was changed or damaged; allowed: the file as rasura wrote it"):
        with_adapters(original, [folder])


@pytest.mark.parametrize("how", ["lacks", "also has"])
def test_an_adapter_with_other_matrices_than_its_layers_is_refused(how, original, stored, tmp_path):
    folder = copied(stored, tmp_path)
    weights = load_file(folder / WEIGHTS)
    name = min(weights)
    tensor = weights.pop(name)
    changed = weights if how == "lacks" else {**weights, name: tensor, "base_model.model.odd.lora_A.weight": tensor * 2}
    save_file(changed, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(InputError, match=rf"{how} base_model\.model\..*weight; allowed: the matrices"):
        with_adapters(original, [folder])


def test_an_adapter_that_is_given_twice_is_refused(original, stored):
    folder = stored / "3" / "adapter"
    with pytest.raises(InputError, match=r"adapter: .* is given twice; allowed: each once"):
        with_adapters(original, [folder, stored / "5" / "adapter", f"{folder}/../adapter"])


def test_an_adapter_is_not_stored_beside_other_weights(original, digits, tmp_path):
    outcome = forget(original, digits, ForgetClasses([3]), replace(QUICK, keep_adapter=True))
    again = copy.deepcopy(outcome.model)
    again.get_submodule("head").weight.data += 1
    rasura.models.save_model(again, tmp_path / "changed")
    assert not (tmp_path / "changed" / "adapter").exists()


# ---------------------------------------------------------------------------------- requests that cannot be served


def test_samples_outside_of_the_training_set_are_refused(digits, original):
    with pytest.raises(InputError, match=f"indices: {len(digits.train)} is not in the training set"):
        forget(original, digits, ForgetSamples([len(digits.train)]), QUICK)


def test_a_class_left_empty_by_removing_samples_is_refused(digits, original):
    all_threes = (digits.train.labels == 3).nonzero()[:, 0]
    with pytest.raises(InputError, match="class '3' would keep no training example"):
        forget(original, digits, ForgetSamples(all_threes), QUICK)
