"""Strength search: against methods whose effect is known, and on settings that do nothing or far too much."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rasura
from rasura import Data, ForgetClasses, ForgetSamples, InputError, Problem, Search, methods, predict, search_strength
from rasura.cli import main
from rasura.data import Examples
from rasura.methods import Strength
from rasura.models import card_of
from rasura.options import Forget
from rasura.testing import check_method, small_problem
from rasura.trials import FINEST

UNSEARCHED = {"retrain", "damp", "logit-mask", "head-reset", "linear-filtration"}
"""Methods that have nothing to turn up or down."""

RANGES = [
    Strength("x", 1e-6, 1e-1),
    Strength("x", 100.0, 1.0),
    Strength("x", 0.9999, 0.3, "logit"),
    Strength("x", 1, 9, "linear"),
]


@given(st.sampled_from(RANGES), st.floats(0, 1), st.floats(0, 1))
def test_strength_rises_from_one_end_to_the_other(strength, one, two):
    assert (strength.at(0), strength.at(1)) == (strength.weakest, strength.strongest)
    sign = 1 if strength.strongest > strength.weakest else -1
    low, high = sorted((one, two))
    assert sign * strength.at(low) <= sign * strength.at(high)
    here = strength.position(strength.at(one))
    assert here == pytest.approx(one, abs=0.07 if isinstance(strength.weakest, int) else 0.01)
    assert strength.position(1e6) is None and strength.position(0.0) is None


@pytest.mark.parametrize("name", methods.names())
def test_every_method_takes_both_ends_of_its_strength(name):
    kind = methods.method_class(name)
    strength = getattr(kind, "strength", None)
    assert (strength is None) == (name in UNSEARCHED)
    if strength is not None:
        for position in (0.0, 0.3, 1.0):
            assert getattr(strength.applied(kind(), position), strength.field) == strength.at(position)
        settings = {one.name for one in fields(kind)}
        assert not settings & {one.name for one in fields(Forget)}, "an option of the command line has the same name"


# --------------------------------------------------------------------------- methods whose effect is known


@dataclass(frozen=True)
class Lower:
    """Lowers the forgotten class's logit, and all others by chance: `noise` times as much."""

    amount: float = 1.0
    noise: float = 0.0
    breaks: float = 1e9

    reads: ClassVar = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("amount", 0.01, 100.0)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model = problem.copy_of_model().eval()
        generator = torch.Generator().manual_seed(problem.seed)
        bias = model.get_parameter("head.bias")
        with torch.no_grad():
            bias[list(problem.forget_classes)] -= self.amount
            bias += self.noise * self.amount * torch.randn(len(bias), generator=generator)
            if self.amount > self.breaks:
                bias += torch.nan
        return model, {}


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


@pytest.fixture(scope="module")
def digits() -> Data:
    return rasura.load_data("digits")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_problem().model


REQUEST = ForgetClasses(["3"])


def aside_of(data: Data, model: nn.Module, seed: int = 0) -> Examples:
    """The examples to forget that a search keeps aside: those that its methods never see."""
    seen: list[int] = []

    @dataclass(frozen=True)
    class Watching(Lower):
        def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
            seen.extend([*problem.forget.rows.tolist(), *problem.retain.rows.tolist()])
            return super().__call__(problem)

    search_strength(model, data, REQUEST, Watching(), Search(budget=1), seed)
    left = [row for row in range(len(data.train)) if row not in set(seen)]
    return data.train.take(torch.tensor(left))


@pytest.mark.parametrize("amount", [0.01, 1.0, 100.0])
def test_the_weakest_setting_that_forgets_is_found_from_any_start(digits, model, amount):
    aside = aside_of(digits, model)
    assert len(aside) == pytest.approx(0.2 * len(digits.train), rel=0.05)
    assert aside.labels.unique().tolist() == list(range(10))
    logits = predict(model, aside.take(aside.labels == 3))
    others = logits.clone()
    others[:, 3] = -torch.inf
    needed = (logits[:, 3] - others.amax(1)).max().item()  # below 1 % of these is none of them
    outcome = search_strength(model, digits, REQUEST, Lower(amount), Search(budget=12))
    found = outcome.record["search"]
    assert found["reached"] and outcome.warnings == ()
    assert found["chosen"] >= needed
    step = Lower.strength.position(found["chosen"]) - Lower.strength.position(needed)  # pyright: ignore
    assert step <= 2 * FINEST
    assert found["trials"][0]["setting"] == amount
    assert len(found["trials"]) <= 12
    assert outcome.record["settings"]["amount"] == found["chosen"]
    assert card_of(outcome.model).history[-1]["search"] == found
    json.dumps(outcome.record, allow_nan=False)


def test_the_returned_model_is_the_one_that_was_judged(digits, model):
    outcome = search_strength(model, digits, REQUEST, Lower(), seed=3)
    aside = aside_of(digits, model, seed=3)
    found = outcome.record["search"]
    trial = next(one for one in found["trials"] if one["setting"] == found["chosen"])
    going = aside.labels == 3
    assert recall(outcome.model, aside.take(going)) == trial["forget_accuracy"]
    assert recall(outcome.model, aside.take(~going)) == trial["retain_accuracy"]
    assert recall(model, aside.take(~going)) == found["before"]["retain"]
    assert found["aside"] == {"forget": int(going.sum()), "retain": int((~going).sum())}


def test_settings_may_be_judged_by_examples_that_the_user_names(digits, model):
    rows = (*range(0, 200), 900)
    read: set[int] = set()

    @dataclass(frozen=True)
    class Watching(Lower):
        def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
            read.update([*problem.forget.rows.tolist(), *problem.retain.rows.tolist()])
            return super().__call__(problem)

    outcome = search_strength(model, digits, REQUEST, Watching(), Search(validation=rows))
    assert read == set(digits.train.rows.tolist()) - {int(digits.train.rows[row]) for row in rows}
    aside, found = digits.train.take(torch.tensor(rows)), outcome.record["search"]
    trial = next(one for one in found["trials"] if one["setting"] == found["chosen"])
    for part, chosen in (("forget", aside.labels == 3), ("retain", aside.labels != 3)):
        assert found["aside"][part] == int(chosen.sum())
        assert recall(outcome.model, aside.take(chosen)) == trial[f"{part}_accuracy"]


def test_the_command_line_takes_the_examples_to_judge_by(digits, model, tmp_path, capsys):
    rasura.save_model(model, tmp_path / "original")
    common = ["--model", str(tmp_path / "original"), "--data", "digits", "--forget", "3", "--json"]
    search = ["--strength", "auto", "--budget", "1", "--validation", "10%@4"]
    assert main(["forget", "gradient-ascent", *common, *search, "--out", str(tmp_path / "a")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sum(record["search"]["aside"].values()) == round(0.1 * len(digits.train))
    assert main(["forget", "gradient-ascent", *common, *search[4:], "--out", str(tmp_path / "b")]) == 2
    assert "validation: 10%@4; allowed: with --strength auto" in capsys.readouterr().err


def test_the_held_out_part_is_not_looked_at(digits, model):
    class Watched:
        reads = 0

        def __len__(self) -> int:
            return len(digits.test)

        def __getitem__(self, row: int) -> Tensor:
            Watched.reads += 1
            return digits.test.batch(torch.tensor([row]))[0][0]

    data = replace(digits, test=Examples(Watched(), digits.test.labels, torch.arange(len(digits.test))))
    before = Watched.reads  # the data looks at one, for its shape
    assert search_strength(model, data, REQUEST, Lower()).record["search"]["reached"]
    assert Watched.reads == before


def test_it_says_what_could_not_be_had_and_by_how_much(digits, model):
    outcome = search_strength(model, digits, REQUEST, Lower(noise=2.0), Search(tolerance=0.01))
    found = outcome.record["search"]
    assert not found["reached"]
    nearest = min(found["trials"], key=lambda one: one["forget_excess"] + one["retain_excess"])
    assert found["chosen"] == nearest["setting"]
    lost = found["before"]["retain"] - nearest["retain_accuracy"]
    assert outcome.warnings[0].startswith(
        f"strength: none of {len(found['trials'])} settings of amount leaves accuracy"
    )
    assert outcome.warnings[0].endswith(f"leaves {nearest['forget_accuracy']:.1%} and costs {lost:.1%}")


def test_settings_that_break_the_model_are_too_strong(digits, model):
    outcome = search_strength(model, digits, REQUEST, Lower(amount=100.0, breaks=20.0))
    trials = outcome.record["search"]["trials"]
    assert "NaN" in trials[0]["error"] and trials[0]["forget_accuracy"] is None
    assert trials[1]["position"] < trials[0]["position"]
    assert outcome.record["search"]["reached"]
    with pytest.raises(InputError, match=r"lower: no setting worked \(lower: head.bias became NaN"):
        search_strength(model, digits, REQUEST, Lower(breaks=0.0), Search(budget=3))


def test_a_setting_that_changes_nothing_is_too_weak(digits, model):
    @dataclass(frozen=True)
    class Threshold(Lower):
        def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
            if self.amount < 5:
                return problem.copy_of_model().eval(), {}
            return super().__call__(problem)

    trials = search_strength(model, digits, REQUEST, Threshold(amount=0.1)).record["search"]["trials"]
    assert "no weight changed" in trials[0]["error"]
    assert trials[1]["position"] > trials[0]["position"]


@pytest.mark.parametrize("budget", [1, 2, 4])
def test_the_budget_is_kept(digits, model, budget):
    record = search_strength(model, digits, REQUEST, Lower(), Search(budget=budget)).record["search"]
    assert len(record["trials"]) == budget


def test_the_same_seed_gives_the_same_search(digits, model):
    found = [search_strength(model, digits, REQUEST, Lower(noise=0.1), seed=seed) for seed in (1, 1, 2)]
    states = [one.model.state_dict()["head.bias"] for one in found]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def unseen_accuracy(model: nn.Module, unseen: Examples, samples: Examples) -> float:
    """Of each sample's class in turn."""
    right = (predict(model, unseen).argmax(1) == unseen.labels).double()
    return sum(right[unseen.labels == label].mean().item() for label in samples.labels) / len(samples)


@pytest.mark.parametrize("named", [False, True])
def test_samples_are_forgotten_when_they_are_known_no_better_than_unseen_examples(digits, model, named):
    """The held-out ones, or those that the user names; each class counts as often as among the samples."""
    rows = tuple(range(0, 600, 10))
    aside = tuple(range(605, 1100, 2))
    search = Search(6, tolerance=0.03, validation=aside) if named else Search(6, tolerance=0.03)
    outcome = search_strength(model, digits, ForgetSamples(rows), methods.GradientAscent(), search)
    samples = digits.train.take(torch.tensor(rows))
    unseen = digits.train.take(torch.tensor(aside)) if named else digits.test
    found = outcome.record["search"]
    assert found["forget_accuracy"] == pytest.approx(unseen_accuracy(model, unseen, samples) + 0.03)
    assert found["aside"]["forget"] == len(rows)
    trial = next(one for one in found["trials"] if one["setting"] == found["chosen"])
    assert recall(outcome.model, samples) == trial["forget_accuracy"]
    assert found["reached"] and trial["forget_accuracy"] > 0.5, "as retrained, not as if they were poison"


def test_a_goal_for_samples_may_be_given(digits, model):
    goal = Search(forget_accuracy=0.8, tolerance=0.1, budget=5)
    outcome = search_strength(model, digits, ForgetSamples(range(60)), methods.GradientAscent(4, target=0.7), goal)
    assert outcome.record["search"]["forget_accuracy"] == 0.8
    without = replace(digits, test=digits.test.take(digits.test.labels == 3))
    going = ForgetSamples((digits.train.labels == 4).nonzero()[:20, 0])
    with pytest.raises(InputError, match="validation: no unseen example of the samples' classes; allowed"):
        search_strength(model, without, going, methods.GradientAscent())


def test_defaults_of_a_search_are_stated_once(digits, model, tmp_path, capsys):
    """The command line has none of its own: without options it searches as `Search()` does."""
    assert {getattr(Forget, name) for name in ("budget", "forget_accuracy", "tolerance", "validation")} == {None}
    rasura.save_model(model, tmp_path / "original")
    command = ["forget", "gradient-ascent", "--model", str(tmp_path / "original"), "--data", "digits", "--json"]
    command += ["--forget-samples", "5%", "--strength", "auto", "--budget", "4", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["search"]
    assert found["tolerance"] == Search().tolerance
    assert found["forget_accuracy"] > 0.5


@pytest.mark.parametrize("option", ["--budget", "--tolerance", "--forget-accuracy"])
def test_options_of_a_search_are_refused_without_one(option, tmp_path, capsys):
    for command in (["forget", "ssd"], ["compare", "--reference", str(tmp_path)])[: 2 if option == "--budget" else 1]:
        given_ = [*command, "--model", str(tmp_path), "--data", "digits", "--forget", "3", "--out", str(tmp_path / "o")]
        assert main([*given_, option, "0.5" if option != "--budget" else "8"]) == 2
        assert "allowed: with --strength auto" in capsys.readouterr().err


@dataclass(frozen=True)
class Backwards(Lower):
    """Does harm unless it is as strong as can be, and always forgets: each failure points away from what does."""

    amount: float = 10.0

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        noise = 0.0 if self.amount >= 50 else 1 / self.amount
        return replace(Lower(100.0), noise=noise)(problem)


def test_both_sides_of_the_nearest_setting_are_tried(digits, model):
    found = search_strength(model, digits, REQUEST, Backwards(), Search(budget=8, tolerance=0.001)).record["search"]
    positions = [one["position"] for one in found["trials"]]
    assert found["reached"] and found["chosen"] >= 50
    assert max(positions[1:6]) < positions[0] < max(positions[6:])


@dataclass(frozen=True)
class Clumsy(Lower):
    """Lowers all other classes as well, unless told not to."""

    noise: float = 2.0
    strength: ClassVar[Strength] = Strength("amount", 0.01, 100.0, otherwise={"noise": 0.0})


def test_where_no_strength_does_other_fields_are_changed_too(digits, model):
    outcome = search_strength(model, digits, REQUEST, Clumsy(), Search(budget=8, tolerance=0.01))
    found = outcome.record["search"]
    assert found["reached"] and outcome.warnings == ()
    assert [one["besides"] for one in found["trials"]] == [{}] * 4 + [{"noise": 0.0}] * (len(found["trials"]) - 4)
    assert found["besides"] == {"noise": 0.0}
    assert outcome.record["settings"] == {"amount": found["chosen"], "noise": 0.0, "breaks": 1e9}


@pytest.mark.parametrize(("method", "budget"), [(Clumsy(noise=1.5), 8), (Clumsy(), 1), (Lower(noise=2.0), 8)])
def test_what_the_user_has_set_stays(digits, model, method, budget):
    found = search_strength(model, digits, REQUEST, method, Search(budget, tolerance=0.01)).record["search"]
    assert not found["reached"] and found["besides"] == {}
    assert all(one["besides"] == {} for one in found["trials"])


def test_other_fields_stay_where_a_strength_does(digits, model):
    found = search_strength(model, digits, REQUEST, Clumsy(), Search(budget=8, tolerance=0.9)).record["search"]
    assert found["reached"] and all(one["besides"] == {} for one in found["trials"])


def test_a_search_that_fails_twice_says_with_what(digits, model):
    @dataclass(frozen=True)
    class Hopeless(Clumsy):
        strength: ClassVar[Strength] = Strength("amount", 0.01, 100.0, otherwise={"noise": 1.9})

    outcome = search_strength(model, digits, REQUEST, Hopeless(), Search(budget=6, tolerance=0.001))
    besides = outcome.record["search"]["besides"]
    assert (" with noise 1.9, leaves " in outcome.warnings[0]) == bool(besides)
    assert len({str(one["besides"]) for one in outcome.record["search"]["trials"]}) == 2


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in UNSEARCHED])
def test_what_is_changed_besides_is_a_setting_of_the_method(name):
    kind = methods.method_class(name)
    otherwise = dict(kind.strength.otherwise)
    assert kind.strength.field not in otherwise
    usual = kind()
    assert all(getattr(replace(usual, **otherwise), field) != getattr(usual, field) for field in otherwise)


def test_what_cannot_be_searched_is_refused(digits, model):
    with pytest.raises(InputError, match="strength: logit-mask has none to search; allowed"):
        search_strength(model, digits, REQUEST, methods.LogitMask())
    for given_ in [{"budget": 0}, {"budget": 1.5}, {"forget_accuracy": 1.0}, {"tolerance": -0.1}, {"validation": 0.0}]:
        (field,) = given_
        with pytest.raises(InputError, match=rf"^{field}: .*; allowed: [^\n]+$"):
            Search(**given_)  # pyright: ignore[reportArgumentType]
    for value, allowed in [(1, "above 0, up to 0.5, or a tuple of positions"), ([3, 17], "a number or a tuple of .*")]:
        with pytest.raises(InputError, match=rf"^validation: .*; allowed: {allowed}$"):
            Search(validation=value)  # pyright: ignore[reportArgumentType]
    threes = (digits.train.labels == 3).nonzero()[:, 0].tolist()
    other = int((digits.train.labels != 3).nonzero()[0])
    for rows, part in [([*threes, other], "forget"), (threes[:1], "retain"), (range(len(digits.train)), "retain")]:
        with pytest.raises(InputError, match=rf"validation: \d+ of the \d+ examples to {part}; allowed: some of them"):
            search_strength(model, digits, REQUEST, Lower(), Search(validation=tuple(rows)))
    with pytest.raises(InputError, match=r"indices: 5000 is not in the training set; allowed: 0 to \d+"):
        search_strength(model, digits, REQUEST, Lower(), Search(validation=(5000,)))
    few = torch.tensor([0, 0, 1, 2, 2])
    data = Data.from_tensors((torch.zeros(5, 4), few), (torch.zeros(5, 4), few))
    with pytest.raises(InputError, match="data: class 1 has 1 training example; allowed: 2 or more"):
        search_strength(nn.Linear(4, 3).eval(), data, ForgetClasses([0]), Lower())


# ------------------------------------------------------------------ published settings that do not do

RESNET, CONVNET = "resnet8,width=4", "convnet,width=8"
HARD: dict[str, tuple[str, Any, str]] = {
    # Whole batches: of small ones, rounding decides how far they go.
    "scrub does too little": (CONVNET, methods.Scrub(epochs=6, max_epochs=4, forget_batch_size=128), "weak effect"),
    "bad teacher does nothing": (CONVNET, methods.BadTeacher(), "no effect"),
    "boundary shrink does nothing": (CONVNET, methods.BoundaryShrink(), "no effect"),
    "ssd destroys": (RESNET, methods.Ssd(alpha=1.0), "collapse"),
    "gradient ascent collapses": (CONVNET, methods.GradientAscent(learning_rate=0.3, target=0.0), "collapse"),
    "negative gradient damages": (RESNET, methods.NegativeGradient(10, 0.03, weight=0.01, target=0.0), "damage"),
}


@pytest.mark.parametrize("name", HARD)
def test_settings_that_do_not_do_raise_an_alarm_and_are_turned_into_forgetting(name, digits):
    net, method, alarm = HARD[name]
    original = small_problem(net).model
    alone = rasura.forget(original, digits, REQUEST, method)
    assert alone.warnings[0].startswith(f"{alarm}: accuracy on ")
    outcome = search_strength(original, digits, REQUEST, method)
    assert outcome.record["search"]["reached"]
    kept = digits.test.take(digits.test.labels != 3)
    assert recall(outcome.model, digits.test.take(digits.test.labels == 3)) <= 0.1
    assert recall(outcome.model, kept) >= recall(original, kept) - 0.05


def test_a_method_that_no_strength_can_help_is_returned_with_a_warning(digits, model):
    rate_too_high = methods.NegativeGradient(5, 0.3, target=0.0)
    outcome = search_strength(model, digits, REQUEST, rate_too_high, Search(budget=3))
    assert not outcome.record["search"]["reached"]
    assert outcome.warnings[0].startswith("strength: none of 3 settings of weight leaves accuracy")


def test_the_command_line_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: nn.Module):
    rasura.save_model(model, tmp_path / "original")
    arguments = ["forget", "ssd", "--model", str(tmp_path / "original"), "--data", "digits", "--forget", "3"]
    arguments += ["--out", str(tmp_path / "out"), "--strength", "auto", "--budget", "3", "--calibration", "100"]
    assert main(arguments) == 0
    assert "strength: alpha " in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["search"]["trials"]) == 3
    assert record["settings"]["alpha"] == record["search"]["chosen"]
    assert record["settings"]["calibration"] == 100
    assert main([*arguments[:-4], "--budget", "4", "--calibration", "100"]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_check_method_wants_a_strength_that_is_a_field():
    @dataclass(frozen=True)
    class Misnamed(Lower):
        strength: ClassVar[Strength] = Strength("force", 1.0, 2.0)

    with pytest.raises(AssertionError, match="`strength` names 'force'; name a field"):
        check_method(Misnamed())
    check_method(Lower())
