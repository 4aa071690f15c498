"""The audit of sample requests, on data with wrong labels: only a model that was trained on them names them so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import rasura
from rasura import Data, ForgetSamples, InputError, Recipe
from rasura.auditing import Shadows, judge, read_scores
from rasura.auditing.evidence import membership_comparisons
from rasura.auditing.members import pair_values, relative_likelihood
from rasura.data import read_samples, resolve
from rasura.data.sources import load_data
from rasura.models import card_of, to_card, with_card
from rasura.training import fit

CANARIES, PER_CLASS = 80, 60
THOROUGHLY = Recipe(epochs=60, batch_size=32, learning_rate=0.01, weight_decay=0.0, schedule="constant")


def net(seed: int, data: Data) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)
    return with_card(nn.Sequential(*layers), to_card(None, data))


@pytest.fixture(scope="module")
def canaries() -> Data:
    """600 of the digits; every fifth label is wrong, in the held-out part too."""
    digits = load_data("digits")
    generator = torch.Generator().manual_seed(0)
    chosen = torch.cat([(digits.train.labels == k).nonzero()[:PER_CLASS, 0] for k in range(10)])
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    inputs, labels = digits.train.batch(chosen)
    held_out, true = digits.test.batch(torch.arange(len(digits.test)))
    labels, true = labels.clone(), true.clone()
    labels[::5], true[::5] = (labels[::5] + 1) % 10, (true[::5] + 1) % 10
    return Data.from_tensors((inputs, labels), (held_out, true), name="canaries")


def trained(data: Data, seed: int, without: ForgetSamples | None = None) -> nn.Module:
    kept = resolve(without, data).retain if without else data.train
    return fit(net(seed, data), kept, THOROUGHLY, seed).eval()


@pytest.fixture(scope="module")
def request_() -> ForgetSamples:
    return ForgetSamples(range(CANARIES))


@pytest.fixture(scope="module")
def original(canaries) -> nn.Module:
    return trained(canaries, 0)


@pytest.fixture(scope="module")
def retrained(canaries, request_) -> list[nn.Module]:
    return [trained(canaries, seed, request_) for seed in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def honest(canaries, request_, original, retrained) -> rasura.Finding:
    return rasura.audit(retrained[3], canaries, request_, original, retrained[:3])


def test_the_untouched_original_is_not_forgotten(canaries, request_, original, retrained):
    finding = rasura.audit(original, canaries, request_, original, retrained[:3])
    assert finding.verdict == "NOT FORGOTTEN"
    assert finding.where.startswith("membership, ")
    assert finding.content["request"] == {
        "kind": "samples",
        "forget": "80 training examples",
        "classes": [],
        "samples": CANARIES,
    }
    rows = {row["signal"]: row for row in finding.content["membership"]["rows"]}
    assert rows["loss"]["original"] > 0.65
    assert finding.content["outputs"]["original"]["forget"]["point"] > 0.9
    assert all(abs(area - 0.5) < 0.12 for area in rows["loss"]["references"])


def test_a_retrained_model_is_not_accused(honest):
    assert honest.verdict in ("ERASED", "INCONCLUSIVE"), honest.reason
    assert honest.qualifiers == ()
    assert not any(row["above"] for row in honest.content["membership"]["rows"])
    assert honest.content["comparisons"] == [] and honest.content["routing"] == {}


def test_the_self_test_plants_the_original(honest):
    trials = {gate["name"]: gate["found"] for gate in honest.content["gates"] if gate["name"].startswith("self-test")}
    assert trials["self-test: the untouched original"] == "NOT FORGOTTEN"
    assert trials["self-test: each reference held out"].startswith("0 of 3")


def test_the_file_and_the_page_hold_all_of_it(honest, tmp_path):
    honest.to_parquet(tmp_path / "scores.parquet")
    again = judge(read_scores(tmp_path / "scores.parquet"), seed=0)
    assert again.ruling.verdict == honest.verdict
    assert [one.to_json() for one in again.membership] == [
        {key: value for key, value in row.items() if key != "signal"} for row in honest.content["membership"]["rows"]
    ]
    honest.to_html(tmp_path / "page.html")
    assert "80 training examples" in (tmp_path / "page.html").read_text(encoding="utf-8")


class Flattened(nn.Module):
    """Answers made flat by code after the net: nothing shows in them."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = self.net(inputs)
        return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()


def test_answers_made_flat_do_not_hide_the_examples(canaries, request_, original, retrained):
    finding = rasura.audit(Flattened(original).eval(), canaries, request_, original, retrained[:3])
    assert finding.verdict in ("NOT FORGOTTEN", "MASKED"), finding.reason


def test_examples_fitted_to_the_truth_stand_out_as_avoided(canaries, request_, original, retrained):
    """Made to name anything but the wrong label of just these: below any model that never saw them."""
    avoiding = trained(canaries, 1, request_)
    head = avoiding[3]
    inputs, labels = canaries.train.batch(torch.arange(CANARIES))
    optimiser = torch.optim.SGD(avoiding.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        logits = avoiding(inputs)
        (torch.nn.functional.relu(logits.gather(1, labels[:, None])[:, 0] - logits.mean(1) + 25).mean()).backward()
        optimiser.step()
    assert head.weight.isfinite().all()
    finding = rasura.audit(avoiding.eval(), canaries, request_, original, retrained[:3])
    assert finding.verdict in ("OVER-ERASED", "DAMAGED", "RESIDUAL"), finding.reason


def test_a_reference_that_saw_the_examples_is_no_reference(canaries, request_, original, retrained):
    finding = rasura.audit(retrained[3], canaries, request_, original, [*retrained[:2], trained(canaries, 7)])
    assert (finding.verdict, finding.where) == ("INVALID", "reference 3 never saw the examples")
    told = with_card(retrained[2], replace(card_of(retrained[2]), training={"without": [], "without_samples": [1, 2]}))
    finding = rasura.audit(retrained[3], canaries, request_, original, [*retrained[:2], told])
    assert finding.where == "reference 3 was trained from scratch without the examples"


def test_without_references_nothing_is_called_erased(canaries, request_, original, retrained):
    finding = rasura.audit(retrained[3], canaries, request_, original)
    assert (finding.verdict, finding.qualifiers) == ("INCONCLUSIVE", ("provisional",))


def test_attacks_on_request_serve_samples(canaries, request_, original, retrained):
    shadows = Shadows(unlearned=[trained(canaries, seed, request_) for seed in (11, 12)])
    also = ("adversarial-membership", "u-lira")
    found = rasura.audit(retrained[3], canaries, request_, original, retrained[:3], also=also, shadows=shadows).content[
        "on_request"
    ]
    areas = {row["role"]: row["value"] for row in found["adversarial-membership"]["rows"]}
    assert areas["original"] > 0.65 > areas["model"]
    ratios = {row["role"]: row["value"] for row in found["u-lira"]["rows"]}
    assert ratios["model"] == pytest.approx(0.5, abs=0.15)
    with pytest.raises(InputError, match="also: u-lira has 0 models by --shadow-unlearned; allowed: 2 or more"):
        rasura.audit(retrained[3], canaries, request_, original, retrained[:3], also=("u-lira",))
    with pytest.raises(InputError, match="also: pruning looks at a forgotten class; allowed for samples: adversarial"):
        rasura.audit(retrained[3], canaries, request_, original, also=("pruning",))
    with pytest.raises(InputError, match="goal: 'concept' asks about a class"):
        rasura.audit(retrained[3], canaries, request_, original, goal="concept")


def test_requests_in_words(canaries, tmp_path):
    assert read_samples("3,17,99", canaries).indices == (3, 17, 99)
    (tmp_path / "ids.txt").write_text("4\n8\n15\n")
    assert read_samples(str(tmp_path / "ids.txt"), canaries).indices == (4, 8, 15)
    drawn = read_samples("10%", canaries).indices
    assert len(set(drawn)) == 60 and max(drawn) < 600
    assert drawn == read_samples("10%@0", canaries).indices != read_samples("10%@1", canaries).indices
    for text, message in (
        ("0.01%", "samples: 0.01% is 0 of 600 examples; allowed: at least 1, not all"),
        ("100%", "samples: 100% is 600 of 600"),
        ("nowhere.txt", "samples: 'nowhere.txt' is no file; allowed: 3,17,99, a file"),
    ):
        with pytest.raises(InputError, match=message):
            read_samples(text, canaries)
    (tmp_path / "bad.txt").write_text("4\nx\n")
    with pytest.raises(InputError, match=r"samples: 'x' in .*bad.txt is no position; allowed: whole numbers"):
        read_samples(str(tmp_path / "bad.txt"), canaries)


def test_planted_canaries_are_found_in_the_net_that_saw_them_alone():
    data = load_data("canaries:60@3:digits")
    request = read_samples("canaries:60@3", data)
    original, *references, last = [trained(data, 0)] + [trained(data, seed, request) for seed in (1, 2, 3, 4)]
    told = rasura.audit(original, data, request, original, references)
    assert (told.verdict, told.where) == ("NOT FORGOTTEN", "membership, rmia")
    assert rasura.audit(last, data, request, original, references).verdict in ("ERASED", "INCONCLUSIVE")


def test_canaries_are_labels_of_some_training_examples_made_wrong():
    digits, planted = load_data("digits"), load_data("canaries:50@7:digits")
    changed = (planted.train.labels != digits.train.labels).nonzero()[:, 0]
    assert read_samples("canaries:50@7", planted).indices == tuple(changed.tolist())
    assert len(changed) == 50 and planted.name == "digits with canaries:50@7 of 1198"
    assert torch.equal(planted.test.labels, digits.test.labels)
    offsets = (load_data("canaries:1000:digits").train.labels - digits.train.labels).remainder(10).bincount()
    assert offsets[0] == 198 and all(70 < count < 155 for count in offsets[1:])  # 111 of each on average
    for words, message in (
        ("canaries:0:digits", "canaries: count 0; allowed: 1 or more"),
        ("canaries:1198:digits", "canaries: 1198 of 1198 training examples; allowed: fewer than all"),
        ("canaries:digits", "canaries: digits; allowed: COUNT:DATA or COUNT@SEED:DATA, such as 100@7:digits"),
        ("canaries:5", "canaries: 5; allowed: COUNT:DATA"),
        ("canaries:5:canaries:5:digits", "canaries: digits with canaries:5@0 of 1198; allowed: data without canaries"),
        (f"canaries:5@{2**70}:digits", f"seed: {2**70}; allowed: a whole number from 0 to"),
        ("canaries:5:digitz", "data: 'digitz' is unknown; did you mean 'digits'"),
    ):
        with pytest.raises(InputError, match=message):
            load_data(words)
    part = replace(planted, train=planted.train.take(torch.arange(600)))
    for data, asked in ((digits, "50@7"), (planted, "50@8"), (part, "50@7")):
        message = rf"samples: digits.* holds no canaries:{asked}; allowed: data canaries:{asked}:"
        with pytest.raises(InputError, match=message):
            read_samples(f"canaries:{asked}", data)


def test_too_few_examples_are_refused(canaries, original):
    with pytest.raises(InputError, match="request: fewer than ten training examples to forget"):
        rasura.audit(original, canaries, ForgetSamples(range(5)), original)


def test_what_is_kept_of_pairs_is_of_the_same_class(honest, canaries):
    members = honest.scores.members["model"]
    assert np.array_equal(canaries.train.labels[members.train_rows].numpy(), members.labels)
    assert np.array_equal(canaries.test.labels[members.held_out_rows].numpy(), members.labels)
    assert len(set(members.held_out_rows.tolist())) == len(members.labels)


def test_the_audited_model_and_a_reference_are_scored_beside_as_many_models(honest):
    """Each reference beside the two others; the model beside each two of the three, on average over which."""
    scores = honest.scores
    said = {name: one.values["loss"] for name, one in scores.members.items()}
    labels = scores.members["model"].labels
    found = next(row for row in membership_comparisons(scores, 0) if row.layer == "rmia")
    beside = {one: np.stack([said[name] for name in scores.references if name != one]) for one in scores.references}
    of_model = np.mean([relative_likelihood(said["model"], others) for others in beside.values()], axis=0)
    of_references = [relative_likelihood(said[name], others) for name, others in beside.items()]
    assert found.model == pytest.approx(pair_values(of_model, labels).mean())
    assert found.references == pytest.approx([pair_values(one, labels).mean() for one in of_references])


@pytest.mark.slow
def test_honest_models_are_not_accused_over_wrong_labels():
    """Twenty that never saw 60 wrong labels, beside three others. At 5 %, more than three have a chance of 1.6 %."""
    data = load_data("canaries:60@0:digits")
    request = read_samples("canaries:60@0", data)
    original = trained(data, 0)
    nets = [trained(data, seed, request) for seed in range(1, 24)]
    references, audited = nets[:3], {str(at): one for at, one in enumerate(nets[3:])}
    findings = rasura.audit_all(audited, data, request, original, references)
    accused = [one for one in findings.values() if one.verdict not in ("ERASED", "INCONCLUSIVE")]
    assert len(accused) <= 3, [(one.verdict, one.reason) for one in accused]
