"""What else an audit can be asked: another goal, items on request; and inputs or classes that are not the model's."""

import copy

import pytest
import torch
from torch import Tensor, nn

import rasura
from rasura import Data, ForgetClasses, InputError, Recipe
from rasura.auditing import ON_REQUEST, Shadows
from rasura.data.sources import load_data
from rasura.models import build_model, to_card, with_card
from rasura.training import fit

FORGET = ForgetClasses([3])
BRIEFLY = Recipe(epochs=10, batch_size=64, learning_rate=0.02)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


def trained(data: Data, seed: int, without: int | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("convnet,width=8", classes=10, channels=1, size=8)
    kept = data.train if without is None else data.train.take(data.train.labels != without)
    return with_card(fit(model, kept, BRIEFLY, seed).eval(), to_card("convnet,width=8", data))


@pytest.fixture(scope="module")
def original(digits) -> nn.Module:
    return trained(digits, 0)


@pytest.fixture(scope="module")
def retrained(digits) -> list[nn.Module]:
    return [trained(digits, seed, without=3) for seed in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def masked(digits, original) -> nn.Module:
    return rasura.forget(original, digits, FORGET, rasura.methods.LogitMask()).model


# -------------------------------------------------------------------------------------- anchors and goals


def test_every_finding_shows_what_untrained_nets_and_raw_inputs_tell(digits, original, retrained):
    content = rasura.audit(retrained[3], digits, FORGET, original, retrained[:3]).content
    read = {one["decoder"]: one for one in content["comparisons"] if one["layer"] == "head input" and not one["shots"]}
    for decoder in ("linear", "whitened linear", "nearest neighbours", "kernel machine", "perceptron"):
        assert set(read[decoder]["anchors"]) == {"random net", "raw inputs"}
        assert read[decoder]["anchors"]["raw inputs"] > 0.5  # digits can be read from their pixels
    shuffled = read["shuffled labels"]
    assert max(shuffled["model"], shuffled["original"]) < 0.4
    assert content["geometry"]["layers"][-1] == "head input"
    assert {row["to"] for row in content["geometry"]["similarity"]} == {"original", "retrained"}
    assert len(content["heads"]["model"]["effective_bias"]) == 10
    assert set(content["maps"]["points"]) == {"original", "model", "reference 1"}
    assert sum(content["seconds_per_block"].values()) < content["seconds"]


def test_an_audit_says_how_many_of_the_models_are_measured(digits, original, retrained):
    told = []
    rasura.audit(original, digits, FORGET, original, retrained[:2], progress=lambda *step: told.append(step))
    steps = [step[1:] for step in told if step[0] == "audit: original and references"]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_original_is_like_itself(digits, original, retrained):
    content = rasura.audit(original, digits, FORGET, original, retrained[:3]).content
    own = [row for row in content["geometry"]["similarity"] if row["to"] == "original"]
    assert all(row["model"] == pytest.approx(1, abs=1e-4) for row in own)
    assert all(max(row["references"]) < 0.999 for row in own if row["layer"] == "head input")
    assert all(row["model"] == 0 for row in content["geometry"]["selectivity"])
    assert content["outputs"]["model"]["forget_logit_auroc"] > 0.95
    assert content["outputs"]["original"]["selectivity"] == 0


def test_a_concept_that_pixels_show_is_not_erased_by_retraining(digits, original, retrained):
    """Untrained nets are the yardstick: a net trained on other digits reads a three better than they do, or as well."""
    finding = rasura.audit(retrained[0], digits, FORGET, original, goal="concept")
    assert finding.content["goal"] == "concept"
    assert finding.verdict != "OVER-ERASED"
    assert all("untrained" in finding.reason or finding.verdict not in word for word in ("ERASED", "INCONCLUSIVE"))
    assert {len(one["references"]) for one in finding.content["comparisons"]} == {4}


def test_the_original_fails_both_goals(digits, original, masked):
    assert rasura.audit(original, digits, FORGET, original, goal="concept").verdict == "NOT FORGOTTEN"
    assert rasura.audit(masked, digits, FORGET, original, goal="concept").verdict == "MASKED"


class Blank(nn.Module):
    """Features that hold nothing at all of the input but its retained class, as a lookup of the answer."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.head = net, nn.Linear(10, 10)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(10))
            self.head.bias.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.net(inputs).clone()
        logits[:, 3] = -torch.inf
        return self.head(torch.nn.functional.one_hot(logits.argmax(1), 10).float() * 9)


def test_features_without_the_class_meet_the_goal_of_a_concept(digits, original, retrained):
    finding = rasura.audit(Blank(retrained[0]).eval(), digits, FORGET, original, goal="concept")
    assert finding.verdict in ("ERASED", "INCONCLUSIVE", "RESIDUAL"), finding.reason
    head = next(
        one for one in finding.content["comparisons"] if (one["decoder"], one["layer"]) == ("linear", "head input")
    )
    assert head["model"] < min(head["references"])


def test_words_that_are_no_goal_or_item_are_refused(digits, original):
    with pytest.raises(InputError, match="goal: 'concpt' is unknown; did you mean 'concept'"):
        rasura.audit(original, digits, FORGET, original, goal="concpt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="item: 'relern' is unknown; did you mean 'relearn'"):
        rasura.audit(original, digits, FORGET, original, also=("relern",))


# -------------------------------------------------------------------------------------- on request


@pytest.fixture(scope="module")
def asked(digits, original, masked, retrained):
    shadows = Shadows(originals=[trained(digits, 21)], unlearned=[retrained[3], trained(digits, 22, without=3)])
    finding = rasura.audit(masked, digits, FORGET, original, retrained[:3], also=tuple(ON_REQUEST), shadows=shadows)
    return finding.content["on_request"]


def test_every_item_says_how_to_read_it(asked):
    assert set(asked) == set(ON_REQUEST)
    for block in asked.values():
        assert block["title"] and block["how"]
        assert block["curves"] or block["rows"]
        for curve in block["curves"]:
            assert len(curve["x"]) == len(curve["y"]) > 1


def test_a_masked_model_shows_in_its_features(asked):
    rows = {name: {row["role"]: row["value"] for row in block["rows"]} for name, block in asked.items()}
    assert rows["code-length"]["model"] == rows["code-length"]["original"]
    assert rows["code-length"]["model"] < min(rows["code-length"][f"reference {k}"] for k in (1, 2, 3))
    assert rows["procrustes"]["model"] == rows["procrustes"]["original"] > rows["procrustes"]["reference 1"] > 0
    assert rows["adversarial-membership"]["original"] > 0.4
    assert rows["adversarial-membership"]["model"] is None  # a mask leaves no boundary


def test_the_original_is_relearned_at_once(asked):
    steps = {row["role"]: row["value"] for row in asked["relearn"]["rows"]}
    assert steps["original"] == 0
    assert all(steps[f"reference {k}"] is None or steps[f"reference {k}"] > 0 for k in (1, 2, 3))


def test_on_request_items_are_on_the_page(digits, original, retrained, tmp_path):
    finding = rasura.audit(retrained[3], digits, FORGET, original, retrained[:3], also=("pruning", "retain-tuning"))
    finding.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Pruning" in text and "Fine-tuning on retained examples" in text


def test_items_say_which_models_they_lack(digits, original, retrained):
    for item, message in (
        ("klom", "also: klom has 2 models by --reference; allowed: 3 or more"),
        ("u-lira", "also: u-lira has 0 models by --shadow-unlearned; allowed: 2 or more"),
        ("property-inference", "also: property-inference has 1 models by --shadow-original; allowed: 2 or more"),
    ):
        with pytest.raises(InputError, match=message):
            rasura.audit(retrained[3], digits, FORGET, original, retrained[:2], also=(item,))


# -------------------------------------------------------------------------------------- not the model's data


def test_other_preprocessing_is_named_not_judged(digits, original, retrained):
    """The data standardises; this model takes bytes."""
    inside = copy.deepcopy(retrained[3])
    inputs = digits.train.batch(torch.arange(200))[0]
    low, high = float(inputs.min()), float(inputs.max())

    class Bytes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = inside

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs / 255 * (high - low) + low)

    finding = rasura.audit(Bytes().eval(), digits, FORGET, original, retrained[:3])
    assert (finding.verdict, finding.where) == ("INVALID", "the model takes the data's inputs")
    assert "with values from 0 to 255" in finding.reason


class Renamed(nn.Module):
    """A net whose classes stand in another order."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs).roll(1, dims=1)


def test_another_order_of_classes_is_named_not_judged(digits, original, retrained):
    finding = rasura.audit(Renamed(retrained[3]).eval(), digits, FORGET, original, retrained[:3])
    assert (finding.verdict, finding.where) == ("INVALID", "the model's classes are in the data's order")


def test_a_broken_net_is_damaged_not_renamed(digits, original, retrained):
    broken = build_model("convnet,width=8", classes=10, channels=1, size=8).eval()
    assert rasura.audit(broken, digits, FORGET, original, retrained[:3]).verdict == "DAMAGED"
