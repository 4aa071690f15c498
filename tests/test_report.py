"""The report: every number of `verdict.json` on the page, nothing from it as markup, nothing from elsewhere."""

import ast
import copy
import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import comparison, finding, full_finding, picture, sample_finding, without_references

import rasura.report
from rasura.auditing import VERDICTS
from rasura.errors import InputError
from rasura.report import page
from rasura.report.wording import NEXT


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


@settings(max_examples=10, deadline=None)
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


def figures(text: str) -> list[ElementTree.Element]:
    """The drawings with a description, parsed as XML."""
    found = re.findall(r"<svg viewBox.*?</svg>", text, flags=re.DOTALL)
    return [ElementTree.fromstring(figure) for figure in found if "<desc" in figure]


def test_every_figure_is_sound_and_says_what_it_shows() -> None:
    drawn = figures(page([finding()]))
    assert len(drawn) == 3
    spoken = ["".join(figure.find("desc").itertext()) for figure in drawn]  # pyright: ignore[reportOptionalMemberAccess]
    assert "layer1: this model 33.5%" in spoken[0]
    assert "10: this model 15.0%" in spoken[1] and "all: this model 77.7%" in spoken[1]
    assert "dog: this model 51.2%" in spoken[2]


def test_without_references_it_says_what_is_missing() -> None:
    text = page([without_references()])
    read = Reader(text)
    assert "No retrained model was given. Missing here: linear probes" in read.text
    assert "Not measured here: recovery ladder, what decoders read" in read.text
    assert "Its distance from retrained models is missing" in read.text
    assert len(figures(text)) == 1
    assert read.row("Forget accuracy")[2].startswith("4.6%")
    assert read.row("Forget accuracy")[3:] == ["–", "90.1% 88.1% to 92.1%"]


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


@functools.cache
def full_text(kind: str = "classes") -> str:
    return page([full_finding() if kind == "classes" else sample_finding()])


@functools.cache
def full_page(kind: str = "classes") -> Reader:
    return Reader(full_text(kind))


OPTIONAL = ("heads", "geometry", "membership", "maps", "on_request", "provenance", "seconds_per_block")


def only(*blocks: str) -> dict[str, Any]:
    """A finding with few blocks, whose page is made sooner."""
    return full_finding(comparisons=[], **{block: None for block in OPTIONAL if block not in blocks})


def test_the_verdict_comes_first_and_in_plain_words() -> None:
    text = full_page().text
    parts = (
        "What was asked",
        "What was found",
        "Where it hides",
        "What this does not show",
        "What to do",
        "The numbers",
    )
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    for part in (
        "to be as a model that never saw the class. Made to forget by damp.",
        "Asked directly, it names 4.6% of the held-out images of cat (original 90.1%",
        "Behind the biases of the last layer. After one change (one bias per class refitted) it names 87.0%",
        "Also above the retrained models: few-shot area, head swap, linear stitch.",
        "(membership) is measured below",
    ):
        assert part in text, part


def test_all_blocks_say_how_to_read_them() -> None:
    text = full_text()
    blocks = re.findall(r'<section class="block".*?</section>', text, flags=re.DOTALL)
    assert [re.findall(r"<h3[^>]*>(.*?)</h3>", block)[0] for block in blocks] == [
        "The numbers",
        "Recovery ladder",
        "What decoders read",
        "What it answers instead",
        "The stages as maps",
        "Some examples",
        "Membership",
        "The last layer",
        "Shape of the features",
        "What was edited",
        "Measured on request",
    ]
    assert all("How to read this:" in block for block in blocks)
    for figure in re.findall(r"<figure>.*?</figure>", text, flags=re.DOTALL):
        assert "How to read this:" in figure or "t-SNE" in figure


def test_a_reviewer_finds_the_numbers_of_every_block() -> None:
    made, text = full_finding(), full_page().text
    found = [
        *(percent(rate) for rate in made["membership"]["true_positive_rate"].values()),
        *(percent(made["outputs"]["model"][key]) for key in ("calibration_error", "forget_logit_auroc", "selectivity")),
        *(f"{value:.3f}".replace("-", "−") for head in made["heads"].values() for value in head["effective_bias"]),
        *(f"{row['model']:.3f}" for row in made["geometry"]["similarity"] + made["geometry"]["purity"]),
        *(f"{value:.3f}" for row in made["geometry"]["agreement"] for value in row["references"]),
        *(f"{row['value']:,.1f}" for row in made["on_request"]["code length"]["rows"]),
        *made["provenance"]["models"].values(),
        made["provenance"]["data_hash"],
        made["provenance"]["command"],
        "decoders 21.4 s",
        "0.031 bits, up to 0.021 is usual",
    ]
    assert [one for one in found if one not in text] == []


def test_rungs_stand_from_cheap_to_costly_and_one_is_marked() -> None:
    read = full_page()
    start = next(at for at, row in enumerate(read.rows) if row and row[0].startswith("Change, cheapest first"))
    rungs = [" ".join(row[0].split()) for row in read.rows[start + 1 : start + 14]]
    heads = ("Nothing changed", "Bias", "Head swap", "Batch norm", "Prototype, 1 label", "Prototype, 5 labels")
    heads += ("Prototype, 10 labels", "Prototype, 50 labels", "Few-shot head, 50 labels", "8 bits", "6 bits", "4 bits")
    assert all(rung.startswith(head) for rung, head in zip(rungs, (*heads, "Linear stitch"), strict=True))
    assert [rung for rung in rungs if "comes back" in rung] == ["Bias one bias per class refitted it comes back here"]


def test_what_never_left_is_said_so() -> None:
    assert "it never left" in Reader(page([finding(verdict="NOT FORGOTTEN", where="output")])).row("Nothing changed")[0]


def test_a_rung_that_only_this_model_has_is_marked_without_numbers() -> None:
    made = finding(where="unwrapped")
    made["comparisons"] = [one for one in made["comparisons"] if one["decoder"] != "unwrapped"]
    row = Reader(page([made])).row("Unwrapped")
    assert "it comes back here" in row[0]
    assert row[2:] == ["–"] * 6


def test_code_after_the_head_that_no_model_has_is_not_called_missing() -> None:
    made = finding()
    made["comparisons"] = [one for one in made["comparisons"] if one["decoder"] != "unwrapped"]
    assert "unwrapped" not in page([made]).lower()
    made["comparisons"] = [one for one in made["comparisons"] if one["decoder"] != "head swap"]
    assert "so not compared: head swap." in page([made])


@pytest.mark.parametrize(("verdict", "where"), [("DAMAGED", "output"), ("RESIDUAL", "linear probe, head input")])
def test_no_rung_is_marked_when_the_class_does_not_come_back(verdict: str, where: str) -> None:
    assert "it comes back here" not in page([finding(verdict=verdict, where=where)])


def test_decoders_stand_beside_their_anchors() -> None:
    made, text = full_finding(), full_text()
    names = ("Linear", "Linear, whitened", "Nearest neighbours", "Kernel machine", "Perceptron", "Control")
    places = [text.index(f'<th scope="row">{name}', text.index("At the head input")) for name in names]
    assert places == sorted(places)
    knn = next(one for one in made["comparisons"] if one["decoder"] == "nearest neighbours")
    row = text[places[2] : places[3]]
    assert f'<i class="net" style="left:{percent(knn["anchors"]["random net"])}">' in row
    assert f'<i class="raw" style="left:{percent(knn["anchors"]["raw inputs"])}">' in row


def test_every_stage_has_its_maps_and_the_last_is_chosen() -> None:
    made, text = full_finding(), full_text()
    stages = re.findall(r'<div class="stage">(.*?)</div>', text, flags=re.DOTALL)
    assert len(stages) == len(made["maps"]["layers"])
    for stage in stages:
        assert re.findall(r"<h4>(.*?)</h4>", stage) == ["original", "this model", "retrained 1"]
        assert stage.count("h0") == 3 * len(made["maps"]["labels"])
        assert stage.count('class="group-0"') == 3
    inputs = re.findall(r'<input type="radio"[^>]*>', text)
    assert ["checked" in one for one in inputs] == [False] * 4 + [True]


def test_a_dot_lies_where_the_map_says() -> None:
    made = only("maps")
    made["maps"] |= {"layers": ["last"], "labels": [1, 0], "forget": [True, False]}
    made["maps"]["points"] = {"model": [[[0.25, 1.0], [0.5, 0.0]]]}
    text = page([made])
    assert '<path class="group-0" d="M25 0h0"/>' in text  # up is up
    assert '<path class="group-2" d="M50 100h0"/>' in text  # dog: the second most frequent answer


def test_heat_maps_of_ours_are_shown_and_their_absence_explained() -> None:
    made = only()
    count = 4 * len(made["pictures"])
    assert full_page().tags.count("img") == count
    made["pictures"][0]["heat"]["model"] = "https://elsewhere/x.png"
    assert Reader(page([made])).tags.count("img") == count - 1
    assert "pip install 'rasura[explain]'" in Reader(page([finding()])).text


def test_the_roc_table_reads_the_curve() -> None:
    made = only("membership")
    made["membership"]["roc"] = {"model": [[0.0, 0.0], [0.1, 0.6], [1.0, 1.0]]}
    read = Reader(page([made]))
    assert read.row("5.0%") == ["5.0%", "30.0%"]
    assert read.row("10.0%") == ["10.0%", "60.0%"]
    assert read.row("50.0%") == ["50.0%", "77.8%"]


def test_a_request_for_samples_begins_with_membership() -> None:
    read = full_page("samples")
    text = read.text
    blocks = re.findall(r'<section class="block".*?</section>', full_text("samples"), flags=re.DOTALL)
    assert len(blocks) > 3 and all("How to read this:" in block for block in blocks)
    titles = [text.index(f"{title} How to read this:") for title in ("Membership", "The numbers")]
    assert titles == sorted(titles)
    assert "asked about 312 examples of pets that the original was trained on" in text
    assert "to be as a model that was never trained on them" in text
    assert "The examples can be told from unseen ones better than in retrained models" in text
    assert "brings the class back" not in text and "the class was" not in text
    assert read.row("RMIA")[2].startswith("68.0%")


def test_several_requests_for_samples_are_summed_up_by_membership() -> None:
    read = Reader(page([sample_finding(name=name) for name in ("one", "two")]))
    heads = read.row("Model")
    assert heads[2:4] == ["Membership, RMIA", "Membership, attack"]
    assert read.row("one")[2].startswith("▲ above 68.0%")


def test_what_was_not_measured_is_left_out() -> None:
    none = page([finding(**dict.fromkeys(OPTIONAL))])
    assert none == page([finding()])
    assert (
        "Not measured here: the stages as maps, membership, the last layer, shape of the features, measured on" in none
    )
    assert "Not measured here" not in full_text()


def test_unknown_values_inside_a_block_are_dashes() -> None:
    made = only("heads", "geometry", "membership")
    made["heads"]["reference 1"] = None
    made["heads"]["model"]["alignment"][3] = None
    made["geometry"]["similarity"][0]["references"] = []
    made["membership"]["rows"][2] |= {"original": None, "references": [], "excess": None, "margin": None}
    read = Reader(page([made]))
    assert read.row("RMIA")[3:5] == ["–", "–"]
    assert "Weight and features" not in read.text


def test_a_head_that_is_no_linear_map_is_left_out() -> None:
    made = only("heads")
    made["heads"]["model"] = None
    assert "the last layer" in Reader(page([made])).text.partition("Not measured here:")[2]


def test_full_findings_stay_small_and_fold_the_heavy_blocks() -> None:
    text = page([full_finding(seed, name=f"method {seed}") for seed in range(2)])
    assert len(text.encode()) < 2 * 400_000  # five on a page: two megabytes at most
    assert text.count('<details class="block"') == 2 * 9
    assert text.count('<section class="block"') == 2 * 2
    read = Reader(text)
    assert len(read.ids()) == len(set(read.ids()))


def test_names_in_every_block_stay_text() -> None:
    made = full_finding()
    made["data"]["classes"][0] = made["maps"]["layers"][0] = NASTY[0]
    made["geometry"]["purity"][0]["layer"] = made["provenance"]["command"] = NASTY[1]
    made["on_request"]["relearn time"] |= {"title": NASTY[0], "how": NASTY[1], "x_label": NASTY[2]}
    made["membership"]["rows"][0]["signal"] = NASTY[0]
    read = Reader(page([made]))
    assert set(read.tags) == set(full_page().tags)
    assert {name for name, _ in read.attributes} == {name for name, _ in full_page().attributes}
