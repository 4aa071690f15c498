"""Requests one after the other: what was forgotten stays out, the history says all, the audit reads it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import rasura
from rasura import Data, ForgetClasses, ForgetSamples, InputError, Problem, forget, methods, predict
from rasura.cli import main
from rasura.data import Examples
from rasura.methods import forgotten_classes
from rasura.methods._examples import other_labels
from rasura.methods.boundary_shrink import nearest_classes
from rasura.models import card_of, with_card
from rasura.testing import small_problem


@pytest.fixture(scope="module")
def digits() -> Data:
    return rasura.load_data("digits")


@dataclass(frozen=True)
class Watching:
    """Notes its problem, and changes one weight."""

    seen: ClassVar[list[Problem]] = []
    reads: ClassVar = ("forget", "retain")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        self.seen.append(problem)
        model = problem.copy_of_model().eval()
        with torch.no_grad():
            next(model.parameters()).mul_(0.999)
        return model, {}


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


def test_a_later_problem_has_no_example_of_an_earlier_request(digits):
    model = small_problem().model
    for request in (ForgetClasses([3]), ForgetSamples([0, 7]), ForgetClasses([5, 1])):
        model = forget(model, digits, request, Watching()).model
    first, second, third = Watching.seen[-3:]
    assert (first.forget_classes, first.gone) == ((3,), ())
    assert (second.forget_classes, second.gone) == ((), (3,))
    assert (third.forget_classes, third.gone) == ((1, 5), (3,))
    assert second.forget.rows.tolist() == [0, 7]
    assert third.forget.labels.unique().tolist() == [1, 5]
    assert third.retain.labels.unique().tolist() == [0, 2, 4, 6, 7, 8, 9]
    assert not {0, 7} & set(third.retain.rows.tolist())
    history = card_of(model).history
    assert [entry["request"]["forget"] for entry in history] == ["3", "2 training examples", "1, 5"]
    assert history[2]["earlier"] == [entry["request"] for entry in history[:2]]
    assert forgotten_classes(model) == ForgetClasses(("1", "3", "5"))


def test_a_class_that_is_requested_again_is_forgotten_again(digits):
    model = forget(small_problem().model, digits, ForgetClasses([3]), Watching()).model
    again = forget(model, digits, ForgetClasses([3, 4]), Watching())
    assert (Watching.seen[-1].forget_classes, Watching.seen[-1].gone) == ((3, 4), ())
    assert forgotten_classes(again.model) == ForgetClasses(("3", "4"))


def test_samples_do_not_take_the_rest_of_a_class_that_earlier_samples_began(digits):
    threes = (digits.train.labels == 3).nonzero()[:, 0]
    half = len(threes) // 2
    model = forget(small_problem().model, digits, ForgetSamples(threes[:half]), Watching()).model
    with pytest.raises(InputError, match="class '3' would keep no training example"):
        forget(model, digits, ForgetSamples(threes[half:]), Watching())
    forget(model, digits, ForgetSamples(threes[half:-1]), Watching())
    assert (Watching.seen[-1].retain.labels == 3).sum() == 1
    forget(model, digits, ForgetClasses([3]), Watching())
    assert (Watching.seen[-1].forget_classes, len(Watching.seen[-1].forget)) == ((3,), len(threes))


def test_samples_of_a_class_that_an_earlier_request_took_whole_may_go(digits):
    threes = (digits.train.labels == 3).nonzero()[:, 0]
    model = small_problem().model
    for request in (ForgetSamples(threes[:4]), ForgetClasses([3]), ForgetSamples(threes[2:9])):
        model = forget(model, digits, request, Watching()).model
    assert (Watching.seen[-1].gone, Watching.seen[-1].forget.rows.tolist()) == ((3,), threes[2:9].tolist())


def test_positions_in_other_data_are_refused(digits):
    model = forget(small_problem().model, digits, ForgetSamples([0, 7]), Watching()).model
    fewer = replace(digits, train=digits.train.take(torch.arange(500)))
    with pytest.raises(InputError, match=r"data: 500 training examples; allowed: the 1198 from which samples"):
        forget(model, fewer, ForgetClasses([3]), Watching())


def test_a_model_that_forgot_nothing_has_no_request(digits):
    with pytest.raises(InputError, match="forget: the model's history names no class"):
        forgotten_classes(small_problem().model)


def second_problem() -> Problem:
    """The class 5 was forgotten before; now 3 is to be."""
    problem = small_problem()
    masked, _ = methods.LogitMask()(replace(problem, forget_classes=(5,)))
    staying = problem.retain.take(problem.retain.labels != 5)
    return replace(problem, model=masked, retain=staying, gone=(5,))


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in ("retrain", "exact-k")])
def test_every_method_serves_a_second_request_and_does_not_bring_the_first_class_back(name):
    problem = second_problem()
    gone = small_problem((architecture := "convnet,width=8"), (5,)).forget
    assert architecture and recall(problem.model, gone) == 0
    method: Any = methods.method_class(name)()
    brief = {key: 2 for key in ("epochs", "noise_steps") if hasattr(method, key)}
    model, _ = replace(method, **brief)(problem)
    assert recall(model, gone) == 0


def test_no_example_is_led_to_a_class_that_is_gone():
    problem = second_problem()
    assert set(other_labels(problem).tolist()) == set(range(10)) - {3, 5}
    assert 5 not in nearest_classes(problem.model, problem.forget, (3, 5), 0.1).tolist()
    assert methods.Delete(epochs=1)(problem)[1]["masked"] == [3, 5]
    _, record = methods.Damp()(problem)
    assert all(entry["rank"] <= 1 for entry in record["operators"])


def test_linear_filtration_of_the_present_classes_is_that_of_a_net_that_never_had_the_other():
    problem = second_problem()
    model, _ = methods.LinearFiltration()(problem)
    for part in (problem.forget, problem.retain):
        assert not torch.isin(predict(model, part).argmax(1), torch.tensor([3, 5])).any()
    kept = [number for number in range(10) if number != 5]
    smaller = nn.Sequential(*(child for name, child in problem.copy_of_model().named_children() if name != "head"))
    head = problem.copy_of_model().get_submodule("head")
    narrow = nn.Linear(32, 9)
    with torch.no_grad():
        narrow.weight.copy_(head.get_parameter("weight")[kept])
        narrow.bias.copy_(head.get_parameter("bias")[kept])
    net = nn.Sequential(smaller, nn.Flatten(), narrow).eval()
    parts = [replace(part, labels=part.labels - (part.labels > 5).long()) for part in (problem.forget, problem.retain)]
    nine = replace(problem, model=net, forget=parts[0], retain=parts[1], gone=(), classes=9)
    expected, _ = methods.LinearFiltration()(nine)
    both = predict(model, problem.retain)[:, kept], predict(expected, parts[1])
    torch.testing.assert_close(*both, atol=1e-3, rtol=1e-4)


def test_the_command_line_forgets_one_class_after_the_other_and_audits_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rasura.save_model(small_problem().model, tmp_path / "original")
    data = ["--data", "digits"]
    for name, before, number in (("one", "original", "3"), ("two", "one", "8")):
        arguments = ["forget", "logit-mask", "--model", str(tmp_path / before), *data, "--forget", number]
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    history = json.loads((tmp_path / "two" / "model.json").read_text())["history"]
    assert [entry["request"]["classes"] for entry in history] == [[3], [8]]
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert [one["forget"] for one in record["earlier"]] == ["3"]
    capsys.readouterr()
    audit = ["audit", "--model", str(tmp_path / "two"), "--original", str(tmp_path / "original"), *data]
    assert main([*audit, "--out", str(tmp_path / "audit"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["classes"] == [3, 8]
    nothing = ["audit", "--model", str(tmp_path / "original"), "--original", str(tmp_path / "original"), *data]
    assert main([*nothing, "--out", str(tmp_path / "none")]) == 2
    assert "the model's history names no class" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [{"method": "mine"}, {"request": {"classes": 5}}, {"request": {"classes": ["x"]}}])
def test_a_history_that_is_none_of_ours_is_refused(digits, entry):
    model = small_problem().model
    strange = with_card(model, replace(card_of(model), history=(entry,)))
    with pytest.raises(InputError, match=r"^history: an entry names no classes"):
        forget(strange, digits, ForgetClasses([3]), Watching())


@pytest.mark.parametrize("samples", [3, {"of": 1198}, {"of": 1198, "indices": 4}, {"of": 1198, "indices": [1198]}])
def test_samples_in_the_history_that_are_none_of_ours_are_refused(digits, samples):
    model = small_problem().model
    strange = with_card(model, replace(card_of(model), history=({"request": {"classes": []}, "samples": samples},)))
    with pytest.raises(
        InputError, match=r"^(history: an entry names no samples|indices: 1198 is not in the training set)"
    ):
        forget(strange, digits, ForgetClasses([3]), Watching())


def test_a_class_in_the_history_that_the_data_has_not_is_refused(digits):
    model = small_problem().model
    strange = with_card(model, replace(card_of(model), history=({"request": {"classes": [3, 12]}},)))
    with pytest.raises(InputError, match=r"history: classes \(3, 12\) were forgotten; allowed: 0 to 9"):
        forget(strange, digits, ForgetClasses([3]), Watching())
