"""The audit from models to verdict, on nets trained on scikit-learn's digits: every planted truth is found."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import rasura
from rasura.auditing import judge, read_scores, record_gates, self_test
from rasura.auditing.decoded import HEAD_SWAP
from rasura.auditing.evidence import FURTHER_RUNGS
from rasura.data import Data, ForgetClasses, ForgetSamples
from rasura.errors import InputError
from rasura.finding import recomputed
from rasura.models import build_model, card_of, to_card, with_card
from rasura.testing.surgery import noisy
from rasura.training import Recipe, fit

FORGET = ForgetClasses([3])
BRIEFLY = Recipe(epochs=8, batch_size=64)


@pytest.fixture(scope="module")
def digits() -> Data:
    return rasura.load_data("digits")


def trained(data: Data, seed: int, without: int | None = None) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("resnet8,width=8", classes=10, channels=1, size=8)
    kept = data.train if without is None else data.train.take(data.train.labels != without)
    return with_card(fit(model, kept, BRIEFLY, seed), to_card("resnet8,width=8", data))


@pytest.fixture(scope="module")
def original(digits) -> nn.Module:
    return trained(digits, 0)


@pytest.fixture(scope="module")
def retrained(digits) -> list[nn.Module]:
    return [trained(digits, seed, without=3) for seed in (1, 2, 3, 4)]


class Silenced(nn.Module):
    """Hides a class in code: the net inside still names it."""

    def __init__(self, inner: nn.Module, number: int):
        super().__init__()
        self.inner, self.number = inner, number

    def forward(self, images):
        logits = self.inner(images).clone()
        logits[:, self.number] = -1e4
        return logits


@pytest.fixture(scope="module")
def found(digits, original, retrained) -> dict[str, rasura.Finding]:
    torch.manual_seed(9)
    models = {
        "untouched": original,
        "mask": rasura.forget(original, digits, FORGET, rasura.methods.LogitMask()).model,
        "shift": rasura.forget(original, digits, FORGET, rasura.methods.BiasShift()).model,
        "silenced": Silenced(copy.deepcopy(original), 3),
        "broken": build_model("resnet8,width=8", classes=10, channels=1, size=8).eval(),
        "retrained": retrained[3],
    }
    return rasura.audit_all(models, digits, FORGET, original, retrained[:3])


def test_every_planted_truth_is_found(found):
    assert found["untouched"].verdict == "NOT FORGOTTEN"
    assert (found["mask"].verdict, found["mask"].where) == ("MASKED", "bias")
    assert found["shift"].verdict == "MASKED"
    assert (found["silenced"].verdict, found["silenced"].where) == ("MASKED", "unwrapped")
    assert found["broken"].verdict == "DAMAGED"
    assert found["retrained"].verdict in ("ERASED", "INCONCLUSIVE"), found["retrained"].reason


def test_a_wrapper_hides_no_stage(found):
    stages = {one["layer"] for one in found["mask"].content["comparisons"] if one["decoder"] == "linear"}
    assert len(stages) > 2
    assert {one["layer"] for one in found["silenced"].content["comparisons"] if one["decoder"] == "linear"} == stages
    assert all(finding.qualifiers == () for finding in found.values())


def test_a_finding_says_the_same_in_every_form(found, tmp_path):
    finding = found["mask"]
    finding.to_json(tmp_path / "verdict.json")
    content = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    assert content == finding.content
    assert (content["verdict"], content["where"], content["reason"]) == (finding.verdict, finding.where, finding.reason)
    assert repr(finding) == f"MASKED: {finding.reason}"
    finding.to_html(tmp_path / "page.html")
    assert "MASKED" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_every_finding_says_how_its_self_test_went(found):
    for finding in found.values():
        trials = {gate["name"]: gate for gate in finding.content["gates"] if gate["name"].startswith("self-test: ")}
        assert {name.removeprefix("self-test: "): gate["found"] for name, gate in trials.items()} == {
            "the untouched original": "NOT FORGOTTEN",
            "the original with silenced output": "MASKED",
            "the original with a quarter of its answers wrong": "DAMAGED",
            "each reference held out": trials["self-test: each reference held out"]["found"],
        }
        assert all(gate["passed"] for gate in trials.values())


def test_without_references_the_head_swap_alone_is_tested(digits, original, retrained):
    finding = rasura.audit(retrained[0], digits, FORGET, original)
    trials = {gate["name"]: gate["found"] for gate in finding.content["gates"] if "self-test" in gate["name"]}
    assert trials == {
        "self-test: the untouched original": "NOT FORGOTTEN",
        "self-test: the original with silenced output": "MASKED",
    }


def test_scores_that_cannot_show_a_mask_make_the_audit_invalid(found):
    """References that name the class as soon as a bias is refitted, and no head to swap: the mask would go unseen."""
    scores = found["mask"].scores
    original = scores.models["original"]
    bias = next(one for one in original if one.decoder == "bias")
    unseen = (HEAD_SWAP, *FURTHER_RUNGS)
    models = {
        name: [bias if one.decoder == "bias" else one for one in said if one.decoder not in unseen]
        for name, said in scores.models.items()
    }
    gates = self_test(replace(scores, models=models), 0)
    assert [gate.name for gate in gates if not gate.passed] == ["self-test: the original with silenced output"]
    ruling = judge(replace(scores, models=models), 0, tuple(gates)).ruling
    assert (ruling.verdict, ruling.where) == ("INVALID", "self-test: the original with silenced output")


def test_references_that_are_not_of_one_kind_fail_when_held_out(found):
    """Ten references, seven alike; three differ, each in another way: too many to be chance."""
    scores = found["mask"].scores
    usual, forget = scores.models["reference 2"], scores.forget

    def changed(decoder: str, predicted: np.ndarray) -> list:
        return [replace(one, predicted=predicted) if one.decoder == decoder else one for one in usual]

    answers = next(one.predicted for one in usual if one.decoder == "output")
    read = next(one.predicted for one in usual if (one.decoder, one.layer) == ("linear", "head input"))
    of_original = next(one.predicted for one in scores.models["original"] if one.decoder == "bias")
    odd = [
        changed("linear", np.where(~forget & (np.arange(len(forget)) % 3 == 0), (read + 1) % 10, read)),
        changed("bias", of_original),
        changed("output", np.where(forget, 0, answers)),
    ]
    names = [f"reference {k}" for k in range(1, 11)]
    kept = {name: scores.models[name] for name in ("model", "original")}
    models = kept | dict(zip(names, [usual] * 7 + odd, strict=True))
    trial = self_test(replace(scores, models=models), 0)[-1]
    assert trial.name == "self-test: each reference held out"
    assert not trial.passed
    assert trial.found == "3 of 10 worse than INCONCLUSIVE (reference 8, reference 9, reference 10)"


def test_a_finding_is_computed_again_from_its_files(found):
    finding = found["mask"]
    changed = finding.content | {"verdict": "ERASED", "reason": "", "comparisons": [], "routing": {}}
    again = recomputed(changed, finding.scores)
    assert again.content == finding.content
    assert (again.verdict, again.where) == (finding.verdict, finding.where)


def test_the_verdict_follows_from_the_stored_scores_alone(found, tmp_path):
    for name, finding in found.items():
        finding.to_parquet(tmp_path / "scores.parquet")
        again = judge(read_scores(tmp_path / "scores.parquet"), seed=0)
        assert again.ruling.verdict == finding.verdict, name
        assert [one.to_json() for one in again.comparisons] == finding.content["comparisons"]


def test_the_same_seed_gives_the_same_finding(found, digits, original, retrained):
    again = rasura.audit(found_model(original, digits), digits, FORGET, original, retrained[:3])
    varying = ("seconds", "seconds_per_block", "name")
    same = {key: value for key, value in found["mask"].content.items() if key not in varying}
    assert {key: value for key, value in again.content.items() if key not in varying} == same


def found_model(original: nn.Module, data: Data) -> nn.Module:
    return rasura.forget(original, data, FORGET, rasura.methods.LogitMask()).model


def test_the_audit_leaves_the_models_as_they_were(digits, original, retrained):
    model = copy.deepcopy(original).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rasura.audit(model, digits, FORGET, original, retrained[:1])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_reference_must_be_a_model_of_its_own(digits, original, retrained):
    finding = rasura.audit(retrained[3], digits, FORGET, original, [retrained[0], copy.deepcopy(retrained[0])])
    assert (finding.verdict, finding.where) == ("INVALID", "reference 2 is a model of its own")
    assert "weights 0.0% away from those of the reference 1" in finding.reason


def test_a_reference_that_saw_the_class_is_no_reference(digits, original, retrained):
    finding = rasura.audit(retrained[3], digits, FORGET, original, [*retrained[:2], trained(digits, 7)])
    assert (finding.verdict, finding.where) == ("INVALID", "reference 3 never saw the class")


def test_a_reference_whose_record_says_otherwise_is_no_reference(digits, original, retrained):
    masked = noisy(rasura.forget(original, digits, FORGET, rasura.methods.LogitMask()).model, 0.05, 0)
    finding = rasura.audit(retrained[3], digits, FORGET, original, [*retrained[:2], masked])
    assert (finding.verdict, finding.where) == (
        "INVALID",
        "reference 3 was trained from scratch without the class",
    )
    assert "made by logit-mask" in finding.reason
    other = with_card(copy.deepcopy(retrained[2]), replace(card_of(retrained[2]), training={"without": ["5"]}))
    failed = [gate for gate in record_gates({"reference 1": other}, FORGET, digits) if not gate.passed]
    assert [gate.found for gate in failed] == ["trained with 3"]


def test_without_references_nothing_is_called_erased(digits, original, retrained):
    finding = rasura.audit(retrained[3], digits, FORGET, original)
    assert (finding.verdict, finding.qualifiers) == ("INCONCLUSIVE", ("provisional",))
    assert repr(finding).startswith("INCONCLUSIVE (provisional): No retrained model was given")
    assert rasura.audit(found_model(original, digits), digits, FORGET, original).verdict != "ERASED"


def test_several_classes_at_once(digits, original):
    request = ForgetClasses([3, 8])
    masked = rasura.forget(original, digits, request, rasura.methods.LogitMask()).model
    finding = rasura.audit(masked, digits, request, original)
    assert finding.content["request"]["classes"] == [3, 8]
    expected = int(torch.isin(digits.test.labels, torch.tensor([3, 8])).sum())
    assert finding.content["data"]["held_out_forget"] + finding.content["data"]["overlap_left_out"] >= expected


def with_test(data: Data, rows: torch.Tensor) -> Data:
    return replace(data, test=data.test.take(rows))


def test_what_cannot_be_audited_is_refused(digits, original):
    with pytest.raises(InputError, match="request: fewer than ten training examples to forget"):
        rasura.audit(original, digits, ForgetSamples([1, 2]), original)
    few = with_test(digits, torch.cat([(digits.test.labels != 3).nonzero()[:, 0], torch.tensor([0])]))
    with pytest.raises(InputError, match="held-out examples of '3'; allowed: 10 or more of a class to forget"):
        rasura.audit(original, few, FORGET, original)
    with pytest.raises(InputError, match="held-out examples occur in the training data too; allowed: at most 1%"):
        rasura.audit(original, replace(digits, test=digits.train), FORGET, original)
    with pytest.raises(InputError, match="model: 7 outputs; allowed: 10"):
        rasura.audit(build_model("resnet8,width=8", classes=7, channels=1, size=8).eval(), digits, FORGET, original)
    broken = copy.deepcopy(original)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        rasura.audit(broken, digits, FORGET, original)
