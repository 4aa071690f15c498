"""The report: every number of `verdict.json` on the page, nothing from it as markup, nothing from elsewhere."""

import ast
import copy
import functools
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rasura.report
from rasura.auditing import VERDICTS
from rasura.errors import InputError
from rasura.report import page
from rasura.report.wording import NEXT

SAMPLES: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("report_samples.py")))
finding, full_finding, sample_finding = (SAMPLES[name] for name in ("finding", "full_finding", "sample_finding"))
comparison, picture, without_references = (SAMPLES[name] for name in ("comparison", "picture", "without_references"))
REFERENCES = SAMPLES["REFERENCES"]


class Reader(HTMLParser):
    """All tags, attributes and ids of a page, the text, and the cells of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        if tag in ("small", "span"):
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def ids(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name == "id"]

    def row(self, start: str, number: int = 0) -> list[str]:
        """The cells of the n-th row whose first cell starts so."""
        found = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return [row for row in found if row and row[0].startswith(start)][number]


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


@pytest.mark.parametrize(
    ("label", "number", "part", "at"),
    [
        ("Forget accuracy", 0, "comparisons", 0),
        ("Linear probe, head input", 0, "comparisons", 2),
        ("Few-shot area", 0, "comparisons", 8),
        ("Unwrapped", 0, "comparisons", 9),
        ("Bias", 0, "comparisons", 10),
        ("Head swap", 0, "comparisons", 11),
        ("Retain accuracy", 0, "retain", 0),
        ("Linear probe, head input", 1, "retain", 1),
    ],
)
def test_every_number_of_the_table(label: str, number: int, part: str, at: int) -> None:
    made = finding()
    one = made[part][at]
    _, _, model, retrained, original, over, margin, mark = Reader(page([made])).row(label, number)
    summary, excess = one["reference_summary"], one["excess"]
    assert original.startswith(percent(one["original"]))
    assert model.startswith(percent(one["model"]))
    assert retrained == f"{percent(summary['mean'])} {percent(summary['low'])} to {percent(summary['high'])}"
    assert over == f"{points(excess['point'])} {points(excess['low'])} to {points(excess['high'])}"
    assert margin == "±5.7"
    assert mark == ("▲ above" if one["above"] else "▼ below" if one["below"] else "no")


def test_accuracies_have_their_own_intervals() -> None:
    made = finding()
    read = Reader(page([made]))
    for label, part in (("Forget accuracy", "forget"), ("Retain accuracy", "retain")):
        for cell, role in zip(read.row(label)[2:5:2], ("model", "original"), strict=True):
            own = made["outputs"][role][part]
            assert cell == f"{percent(own['point'])} {percent(own['low'])} to {percent(own['high'])}"


def test_a_reviewer_finds_every_comparison() -> None:
    made = finding()
    read = Reader(page([made]))
    rows = [row for row in read.rows if row and row[0] in ("forget", "retain")]
    assert len(rows) == len(made["comparisons"]) + len(made["retain"])
    for row, one in zip(rows, made["comparisons"] + made["retain"], strict=True):
        text = " ".join(row)
        shares = [one["original"], one["model"], *one["references"], one["reference_summary"]["mean"]]
        differences = [value for name in ("excess", "gap") for value in one[name].values()]
        assert all(percent(share) in text for share in shares)
        assert all(points(share) in text for share in differences)
        assert one["layer"] in row and "3.2" in row and "1.8" in row
        assert ("0.43" in row) == one["resolved"]


def test_provenance_gates_and_request_are_there() -> None:
    text = Reader(page([finding()])).text
    for part in (
        "tinynet",
        "12,345",
        "epochs 7",
        "seed 11",
        "energy 0.987",
        "torch 2.13.0",
        "seed 3",
        "16.6 s",
        "4,000 held-out images of pets",
        "1,000 of them",
        "5 more were left out",
        "1 of 1 passed",
        "give the model that was trained with the class",
        "12.3% of the answers",
        "up to 10.1%",
        "outside",
    ):
        assert part in text, part


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdict_reason_meaning_and_advice(verdict: str) -> None:
    read = Reader(page([finding(verdict=verdict, qualifiers=["provisional"], reason="Because of this.")]))
    meaning = VERDICTS[verdict]
    for part in (verdict, "Because of this.", meaning[1:], "provisional", NEXT[verdict], "What this does not show"):
        assert part in read.text
    assert f"icon-{verdict.lower().replace(' ', '-')}" in read.ids()


def test_advice_for_every_verdict() -> None:
    assert NEXT.keys() == VERDICTS.keys()


NASTY = [
    '<script>alert("1")</script>',
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}{% x %}",
    "$\\frac{1}{2}$ & <b>",
]


def test_nothing_from_json_becomes_markup() -> None:
    made = finding(name=NASTY[0], where=NASTY[1], reason=NASTY[2] + NASTY[0], qualifiers=[NASTY[1]])
    plain = Reader(page([finding(qualifiers=["provisional"])]))
    made["data"]["classes"] = NASTY
    made["request"]["forget"] = NASTY[1]
    made["comparisons"][1]["layer"] = "</svg></text><script>"
    made["gates"][0]["found"] = NASTY[0]
    made["models"]["model"]["training"] = {NASTY[0]: [NASTY[1]]}
    for one in made["pictures"]:
        one["label"], one["answers"]["model"] = NASTY[0], NASTY[1]
    text = page([made])
    read = Reader(text)
    assert set(read.tags) == set(plain.tags)
    assert {name for name, _ in read.attributes} == {name for name, _ in plain.attributes}
    assert "script" not in read.tags
    assert "49" not in read.text.split()
    assert all(name in read.text for name in NASTY[:3])


@functools.cache
def usual_tags() -> set[str]:
    return set(Reader(page([finding()])).tags)


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_name_can_be_drawn(name: str) -> None:
    made = finding()
    made["data"]["classes"][0] = name
    made["comparisons"][1]["layer"] = name
    assert set(Reader(page([made])).tags) == usual_tags()


def test_pictures_from_elsewhere_are_left_out() -> None:
    made = finding()
    for one, image in zip(made["pictures"], ("http://x/y.png", "javascript:alert(1)", picture()), strict=True):
        one["image"] = image
    assert Reader(page([made])).tags.count("img") == 1


@pytest.mark.parametrize("make", [finding, without_references])
def test_nothing_is_fetched(make: Any) -> None:
    text = page([make(), make()])
    assert not re.findall(r"https?://|//[a-z]|url\(|@import|<link|<script", text)
    assert "default-src 'none'" in text


def test_same_input_same_bytes_whatever_the_users_style() -> None:
    made = finding()
    before = copy.deepcopy(made)
    text = page([made])
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert page([made]) == text
        assert matplotlib.rcParams["font.size"] == 30
    assert made == before


def test_ids_are_unique_and_labels_lead_somewhere() -> None:
    read = Reader(page([finding(), finding(), without_references()]))
    assert len(read.ids()) == len(set(read.ids()))
    for name, value in read.attributes:
        if name == "aria-labelledby":
            assert set((value or "").split()) <= set(read.ids())
        if name == "href":
            assert (value or "").removeprefix("#") in read.ids()


def test_every_figure_is_sound_and_says_what_it_shows() -> None:
    figures = re.findall(r"<svg viewBox.*?</svg>", page([finding()]), flags=re.DOTALL)
    drawn = [ElementTree.fromstring(figure) for figure in figures if "<desc" in figure]
    assert len(drawn) == 4
    spoken = ["".join(figure.find("desc").itertext()) for figure in drawn]  # pyright: ignore[reportOptionalMemberAccess]
    assert "layer1: this model 33.5%" in spoken[0]
    assert "10: this model 15.0%" in spoken[1] and "all: this model 77.7%" in spoken[1]
    assert "bias: this model 86.4%" in spoken[2]
    assert "dog: this model 51.2%" in spoken[3]


def test_without_references_it_says_what_is_missing() -> None:
    text = page([without_references()])
    read = Reader(text)
    assert "No retrained model was given. Missing here: linear probes" in read.text
    assert "layer by layer, with few labels, after a cheap change" in read.text
    assert "Its distance from retrained models is missing" in read.text
    assert text.count("<desc") == 1
    assert read.row("Forget accuracy")[1].startswith("90.1%")
    assert read.row("Forget accuracy")[3:] == ["–", "", "–", "–", "–"]


def test_one_reference_has_no_routing_band() -> None:
    made = finding()
    made["routing"] |= {"distance": None, "band": None, "outside": False}
    assert "that needs two of them" in Reader(page([made])).text


def test_without_pictures_there_is_no_row() -> None:
    read = Reader(page([finding(pictures=[])]))
    assert "img" not in read.tags
    assert "held-out examples of pets" in read.text


def test_invalid_names_all_failed_gates() -> None:
    gate = {"passed": False, "found": "80%", "allowed": "below 1%", "remedy": "retrain it without the class"}
    gates = [gate | {"name": f"reference {number} never saw the class"} for number in (1, 2)]
    read = Reader(page([finding(verdict="INVALID", where=gates[0]["name"], gates=gates)]))
    assert "0 of 2 passed" in read.text
    for one in gates:
        assert f"{one['name']}: found 80%; allowed: below 1%. To do: retrain it without the class." in read.text


def test_several_findings_begin_with_one_table() -> None:
    names = ("first", "second", "third")
    made = [finding(name=name) for name in names]
    made[1] |= {"verdict": "ERASED", "where": "", "qualifiers": ["provisional"]}
    text = page(made)
    read = Reader(text)
    assert "1 of 3 counts as erased: second (provisional)" in read.text
    row = read.row("first")
    assert row[1] == "MASKED at bias"
    assert row[2].startswith("4.6%") and row[3].startswith(percent(0.8765))
    assert row[4].startswith("▼ below 76.5%") and row[5].startswith("▲ above 24.7%")
    retrained = read.row("Retrained")
    area = made[0]["comparisons"][8]["reference_summary"]
    assert retrained[5] == f"{percent(area['mean'])} {percent(area['low'])} to {percent(area['high'])}"
    assert read.row("Original")[2] == "90.1%"
    assert all(f'href="#model-{number}"' in text and f'id="model-{number}"' in text for number in (1, 2, 3))


def test_one_finding_needs_no_overview() -> None:
    assert "At a glance" not in page([finding()])


def test_findings_with_and_without_references_share_a_page() -> None:
    read = Reader(page([finding(name="one"), without_references() | {"name": "two"}]))
    assert read.row("two")[4:] == ["– needs retrained models"] * 2
    assert read.row("Retrained")[1].startswith("0 or 3 models")


def test_many_classes_and_layers_stay_readable() -> None:
    made = finding()
    made["data"]["classes"] = [f"a class with the very long name number {number}" for number in range(100)]
    for role in made["outputs"]:
        made["outputs"][role]["per_class"] = [0.5] * 100
        made["routing"]["shares"][role] = [0.01] * 100
    made["comparisons"] += [comparison("linear", f"encoder.layer.{number}.output", 0.5) for number in range(12)]
    text = page([made])
    assert "92 others" in text
    assert "rotate(-35" in text
    assert "a class wit…number 0"[:10] in text


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        ([], "none given"),
        ([finding(format=1)], "format 1; allowed: 2. Audit the model again"),
        ([finding(verdict="FINE")], "'FINE'"),
        ([finding(), finding(request={"forget": "dog", "classes": [0]})], "different requests"),
    ],
)
def test_what_cannot_be_shown_is_refused(findings: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        page(findings)


def test_drawing_libraries_are_imported_only_when_a_page_is_made() -> None:
    for path in Path(rasura.report.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in modules} & {"matplotlib", "jinja2", "markupsafe"}
