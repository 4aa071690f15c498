"""A comparison: ranked by the distance to the retrained band, with the controls on it, on one page and resumable."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rasura
from rasura import InputError, Problem, finding, methods
from rasura.cli import main
from rasura.compare import compare
from rasura.data import ForgetClasses
from rasura.progress import silent
from rasura.report.comparison_figures import _apart, _beside
from rasura.report.comparison_page import Cost, Measure, Row, comparison_page, ranked
from rasura.runs import train_run
from rasura.training import Recipe

REQUEST = ForgetClasses(["3"])
METHODS = {
    "ga": methods.GradientAscent(),
    "finetune <b>": methods.Finetune(epochs=1),
    "broken": methods.Finetune(epochs=1, learning_rate=1e30),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, data = tmp_path_factory.mktemp("trained"), rasura.load_data("digits")
    for seed, without in ((0, ()), (1, ("3",)), (2, ("3",))):
        train_run(data, "convnet,width=8", Recipe(epochs=5), without, seed, folder / str(seed), silent)
    return folder


@pytest.fixture(scope="module")
def compared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], dict[str, str], Path]:
    folder = tmp_path_factory.mktemp("compared")
    return *run(trained, folder), folder


def run(trained: Path, folder: Path) -> tuple[list[Row], dict[str, str]]:
    nets: list[nn.Module] = [rasura.load_model(trained / str(seed)) for seed in range(3)]
    return compare(nets[0], rasura.load_data("digits"), REQUEST, METHODS, nets[1:], folder, silent)


def verdicts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("verdict.json"))]


def test_rows_are_ranked_by_how_far_they_lie_outside_of_the_band(compared):
    rows, _, folder = compared
    assert [row.distance for row in rows] == sorted(row.distance for row in rows)
    for row in rows:
        finding = next(one for one in verdicts(folder) if one["name"] == row.name)
        gaps = []
        for one in [*finding["comparisons"], *finding["retain"]]:
            if one["decoder"] == "output" or one["primary"] or one in finding["retain"]:
                low, high = min(one["references"]), max(one["references"])
                gaps.append(max(0.0, low - one["model"], one["model"] - high))
        gaps.append(max(0.0, finding["routing"]["distance"] - finding["routing"]["band"]))
        assert row.distance == pytest.approx(sum(gaps) / len(gaps), abs=2e-5)
        assert len(row.measures) == len(gaps)


@pytest.mark.parametrize(("value", "outside"), [(0.5, 0.0), (0.2, 0.0), (0.6, 0.0), (0.1, 0.1), (0.9, 0.3)])
def test_a_score_within_the_band_is_no_distance(value, outside):
    assert Measure("few-shot", "forget", value, 0.2, 0.6).outside == pytest.approx(outside)


def test_the_controls_are_there_and_exposed(compared):
    rows, _, folder = compared
    by_name = {row.name: row for row in rows}
    assert set(by_name) == {"ga", "finetune <b>", "logit-mask", "bias-shift"}
    assert not {by_name[name].verdict for name in ("logit-mask", "bias-shift")} & {"ERASED"}
    assert all(row.cost.seconds is not None for row in rows)
    assert (folder / "comparison.html").read_text().count("control: silences the answers") == 2


def test_what_a_method_took_is_in_the_record_and_on_the_page(compared):
    rows, _, folder = compared
    page = (folder / "comparison.html").read_text()
    for row in rows:
        record = json.loads((folder / row.name / "record.json").read_text())
        assert row.cost == Cost(record["seconds"], record["memory_mib"])
        assert row.to_json()["memory_mib"] == record["memory_mib"]
        if row.cost.memory_mib is not None:
            assert f'<td class="number">{row.cost.memory_mib:.0f}</td>' in page


def test_a_method_that_failed_is_named_with_its_reason(compared):
    _, failed, folder = compared
    assert set(failed) == {"broken"}
    assert "NaN" in failed["broken"] or "made the loss" in failed["broken"]
    content = json.loads((folder / "comparison.json").read_text())
    assert content["failed"] == failed
    assert [row["name"] for row in content["rows"]] == [row.name for row in compared[0]]


def test_the_page_is_whole_escaped_and_fetches_nothing(compared):
    rows, _, folder = compared
    page = (folder / "comparison.html").read_text()
    for row in rows:
        assert f"{100 * row.distance:.1f}" in page
    assert "finetune &lt;b&gt;" in page and "finetune <b>" not in page
    assert "broken" in page and "default-src 'none'" in page
    assert page.count("<svg viewBox") == 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_second_run_reads_what_is_there(compared, trained):
    _, _, folder = compared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in ("run.json", "verdict.json")}
    rows, failed = run(trained, folder)
    assert [row.to_json() for row in rows] == [row.to_json() for row in compared[0]]
    assert failed == compared[1]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_of_another_comparison_is_refused(compared, trained):
    _, _, folder = compared
    nets = [rasura.load_model(trained / str(seed)) for seed in range(2)]
    other = {"ga": methods.GradientAscent(target=0.5)}
    with pytest.raises(InputError, match=r"out: .* holds another run"):
        compare(nets[0], rasura.load_data("digits"), REQUEST, other, nets[1:], folder, silent)


def test_a_comparison_needs_references(trained, tmp_path):
    net = rasura.load_model(trained / "0")
    with pytest.raises(InputError, match="reference: none; allowed: 1 or more"):
        compare(net, rasura.load_data("digits"), REQUEST, {}, [], tmp_path, silent)
    with pytest.raises(InputError, match="findings: none given"):
        ranked([], {})


PLACES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=24)


@given(PLACES)
def test_numbers_in_a_figure_never_lie_on_each_other(places):
    found = _beside(places, 4.0)
    for number, (x, y) in enumerate(found):
        for other_x, other_y in found[:number]:
            assert x != other_x or abs(y - other_y) >= 4.0 - 1e-9
    heights = _apart([y for _, y in places], 4.0, 100)
    assert sorted(range(len(places)), key=lambda k: heights[k]) == sorted(
        range(len(places)), key=lambda k: (places[k][1], k)
    )
    assert max(heights) <= 100


def test_findings_of_one_model_make_a_page_too(compared):
    _, _, folder = compared
    assert "–" in comparison_page(verdicts(folder)[:1], {})


def test_the_command_line_compares(trained, tmp_path, capsys):
    arguments = ["compare", "--model", str(trained / "0"), "--data", "digits", "--forget", "3", "--out", str(tmp_path)]
    arguments += ["--reference", str(trained / "1"), str(trained / "2"), "--methods", "delete"]
    assert main([*arguments, "--strength", "auto", "--budget", "2"]) == 0
    assert "delete" in capsys.readouterr().out
    assert main([*arguments, "--strength", "auto", "--budget", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in content["rows"]} == {"delete", "logit-mask", "bias-shift"}
    assert (tmp_path / "comparison.html").is_file()
    assert "search" in json.loads((tmp_path / "delete" / "record.json").read_text())
    assert torch.isfinite(torch.tensor([row["distance"] for row in content["rows"]])).all()
    assert main([*arguments, "--methods", "delte"]) == 2


def test_a_comparison_that_was_stopped_in_the_last_audit_makes_that_one_alone(trained, tmp_path, monkeypatch):
    audited: list[str] = []
    audit_one = finding._audit_one

    def watched(name: str, *arguments: Any) -> finding.Finding:
        audited.append(name)
        if audited.count("bias-shift") == 1 and name == "bias-shift":
            raise KeyboardInterrupt
        return audit_one(name, *arguments)

    monkeypatch.setattr(finding, "_audit_one", watched)
    nets = [rasura.load_model(trained / str(seed)) for seed in range(2)]
    given = nets[0], rasura.load_data("digits"), REQUEST, {"ga": METHODS["ga"]}, nets[1:], tmp_path, silent
    with pytest.raises(KeyboardInterrupt):
        compare(*given)
    compare(*given)
    assert audited == ["ga", "logit-mask", "bias-shift", "bias-shift"]


@dataclass(frozen=True)
class Failing:
    """A method that raises what it is told to."""

    error: Exception
    reads = ("retain",)

    def __call__(self, problem: Problem) -> Any:
        raise self.error


def test_a_method_or_an_audit_that_fails_costs_its_own_row(trained, tmp_path, monkeypatch):
    audit_one = finding._audit_one

    def failing(name: str, *arguments: Any) -> finding.Finding:
        if name == "bias-shift":
            raise MemoryError("no room")
        return audit_one(name, *arguments)

    monkeypatch.setattr(finding, "_audit_one", failing)
    nets = [rasura.load_model(trained / str(seed)) for seed in range(2)]
    bad = {"hungry": Failing(torch.OutOfMemoryError("full")), "wrong": Failing(ZeroDivisionError("by\nzero"))}
    rows, failed = compare(nets[0], rasura.load_data("digits"), REQUEST, bad, nets[1:], tmp_path, silent)
    reasons = {"hungry": "OutOfMemoryError: full", "wrong": "ZeroDivisionError: by"}
    assert failed == reasons | {"bias-shift": "MemoryError: no room"}
    assert [row.name for row in rows] == ["logit-mask"]
    assert json.loads((tmp_path / "comparison.json").read_text())["failed"] == failed
    full = {"full": Failing(OSError(28, "No space left on device"))}
    with pytest.raises(OSError, match="No space left"):  # which no other method would survive
        compare(nets[0], rasura.load_data("digits"), REQUEST, full, nets[1:], tmp_path, silent)
