"""The audit's conformance suite: what the audit says of every model whose truth is known."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rasura.auditing import VERDICTS
from rasura.testing.case import FINE, REFUSED
from rasura.testing.conformance import CASES, PENDING, Case, Found, check_audit, run_cases, stage, verdicts_held_out
from rasura.testing.masks import distilled
from rasura.testing.stage import FORGET, LIKEST, images_of, small_data, trained
from rasura.testing.surgery import Concealed, hashed, insides, leace, mimic, permuted, rotated

Play = Callable[[bool], dict[str, Found]]


@pytest.fixture(scope="module")
def play() -> Play:
    """All quick cases at once, or all slow ones: original and references are then measured once."""

    @functools.cache
    def played(slow: bool) -> dict[str, Found]:
        return run_cases([case for case in CASES if case.slow == slow and _can_be_made(case)], stage())

    return played


def _can_be_made(case: Case) -> bool:
    return not case.library or importlib.util.find_spec(case.library) is not None


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.slow] if case.slow else []
    if case.name in PENDING:
        marks.append(pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"needs {case.needs}"))
    if not _can_be_made(case):
        marks.append(pytest.mark.skip(reason=f"{case.library} is not installed"))
    return marks


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=_marks(case)) for case in CASES])
def test_the_audit_says_what_it_must(case: Case, play: Play):
    mistake = play(case.slow)[case.name].mistake(case)
    assert not mistake, mistake


@pytest.mark.slow
def test_retrained_models_held_out_in_turn_are_erased_and_none_is_accused(capsys):
    verdicts = verdicts_held_out(stage())
    with capsys.disabled():
        print(f"\nretrained models held out in turn: {dict(verdicts)}")
    assert set(verdicts) <= set(FINE)
    assert verdicts["ERASED"] >= 0.5 * verdicts.total()


def test_every_case_is_named_once_and_expects_what_there_is():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len(set(PENDING)) == len(PENDING) and set(PENDING) <= set(names)
    for case in CASES:
        assert case.expected and set(case.expected) <= {*VERDICTS, REFUSED}
        assert case.needs or case.name not in PENDING


def test_the_stage_is_the_same_every_time_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    again = trained(small_data(), 0)
    assert torch.equal(torch.get_rng_state(), before)
    expected = stage().original.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_a_mistake_is_told_with_the_audits_reason():
    case = next(case for case in CASES if case.name == "held-out images are training images")
    check_audit(case)
    with pytest.raises(AssertionError, match=r"refused at no place; allowed: ERASED\. data: 1440 of 1440 held-out"):
        check_audit(replace(case, expected=("ERASED",)))
    found = Found("MASKED", "bias", "A bias brings it back.")
    assert found.mistake(Case("shift", ("MASKED",), lambda stage: stage.original)) == ""
    elsewhere = Case("shift", ("MASKED",), lambda stage: stage.original, ("unwrapped", "head swap"))
    assert found.mistake(elsewhere) == (
        "shift: MASKED at bias; allowed: MASKED at unwrapped or head swap. A bias brings it back."
    )


def test_models_that_are_refused_keep_no_others_from_a_verdict():
    inputs = replace(stage().inputs(stage().original), references=())
    broken = replace(inputs, model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(196, 3)))
    cases = [
        Case("three outputs", (REFUSED,), lambda _: broken),
        Case("untouched", ("NOT FORGOTTEN",), lambda _: inputs),
        Case("three outputs where a verdict is due", ("ERASED",), lambda _: broken),
    ]
    found = run_cases(cases, stage())
    assert [found[case.name].verdict for case in cases] == [REFUSED, "NOT FORGOTTEN", REFUSED]
    assert "3 outputs" in found["three outputs"].reason


def images() -> torch.Tensor:
    return images_of(stage().data.test)


@torch.no_grad()
def test_turned_and_reordered_units_leave_the_answers():
    net = stage().original
    for made in (rotated(net, 0), permuted(net, 0)):
        torch.testing.assert_close(made(images()), net(images()), atol=1e-4, rtol=1e-4)
    with_layer = rotated(mimic(net, net, stage().data.train, torch.tanh), 0)
    before = mimic(net, net, stage().data.train, torch.tanh)
    torch.testing.assert_close(with_layer(images()), before(images()), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(Concealed(net)(images()), net(images()), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_distilled_head_answers_as_its_teacher_on_the_features_of_another_net():
    made, teacher = distilled(stage()), stage().retrained
    assert torch.equal(made.inside(images()), stage().original.inside(images()))
    said = made(images()).argmax(1)
    assert (said == teacher(images()).argmax(1)).double().mean() > 0.95
    assert not (said == stage().forget).any()


@pytest.mark.parametrize("beside", ["", LIKEST])
def test_an_erased_class_has_the_mean_of_the_others(beside):
    pytest.importorskip("concept_erasure")
    train = stage().data.train
    erased = leace(stage(), beside)(insides(stage().original, train))
    is_forget = train.labels == stage().forget
    others = train.labels == stage().data.classes.index(beside) if beside else ~is_forget
    torch.testing.assert_close(erased[is_forget].mean(0), erased[others].mean(0), atol=1e-4, rtol=0)
    whole = leace(stage(), beside, share=1)(insides(stage().original, train))
    torch.testing.assert_close(whole, insides(stage().original, train))


def test_noise_of_an_image_depends_on_the_image_alone():
    noise = hashed(images(), 32)
    assert torch.equal(hashed(images()[5:7], 32), noise[5:7])
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert (torch.corrcoef(noise.T) - torch.eye(32)).abs().max() < 0.25


def test_the_held_out_images_fill_the_stage():
    data = stage().data
    counts = data.test.labels.bincount().tolist()
    assert counts == [160 if name == FORGET else 80 for name in data.classes]
