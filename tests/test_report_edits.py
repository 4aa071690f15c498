"""The block of the page that shows what a closed-form method did to each linear map."""

import re
from typing import Any

import report_samples

from rasura import ForgetClasses, audit, forget
from rasura.data import load_data
from rasura.methods import Damp
from rasura.report import page
from rasura.testing import small_problem


def with_edits(record: list[dict[str, Any]]) -> str:
    made = report_samples.finding()
    made["models"]["model"]["edits"] = record
    return page([made])


def test_every_map_is_drawn_and_every_number_stands_in_the_table():
    text = with_edits(report_samples.edit_record())
    block = text[text.index("What was edited") :]
    rows = re.findall(r"<tr>(.*?)</tr>", block[block.index("All linear maps") :], re.DOTALL)[1:5]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["stem.conv", "25.0%", "–", "–", "–", "–", "too early in the net"],
        ["layer&lt;1&gt;", "25.0%", "–", "–", "–", "–", "its weight is shared with stem.conv"],
        ["layer2", "75.0%", "51.0%", "3", "12.3%", "bias", "projected"],
        ["head", "100.0%", "–", "–", "43.2%", "–", "rows replaced"],
    ]
    assert "12.3%, rank 3" in block and "layer<1>" not in text
    assert (
        "Left alone: stem.conv (too early in the net); layer&lt;1&gt; (its weight is shared with stem.conv)." in block
    )


def test_what_a_map_cancels_of_its_shortcut_stands_in_the_table():
    *_, layer, head = report_samples.edit_record()
    assert "projected, 60.0% of its shortcut cancelled" in with_edits([layer | {"cancelled": 0.6}, head])
    assert "shortcut cancelled" not in with_edits([layer | {"cancelled": 0.0}, head])
    assert "projected, single examples dispersed" in with_edits([layer | {"dispersed": 0.1}, head])
    assert "dispersed" not in with_edits([layer | {"dispersed": 0.0}, head])


def test_of_a_deep_net_the_figures_show_the_edited_maps():
    first, _, *edited = report_samples.edit_record()
    deep = [first | {"operator": f"early.{number}"} for number in range(60)] + edited
    text = with_edits(deep)
    drawn = text[text.index("What was edited") : text.index("All linear maps", text.index("What was edited"))]
    figures = "".join(re.findall(r"<svg.*?</svg>", drawn, re.DOTALL))
    assert "layer2" in figures and "early.7" not in figures and "early.7<" in text


def test_a_method_without_such_a_record_has_no_block():
    assert '<h3 id="model-1-edits"' not in with_edits([]) and "What was edited" not in page([report_samples.finding()])


def test_an_audit_keeps_the_record_of_the_last_forgetting():
    digits = load_data("digits")
    original = small_problem().model
    made = forget(original, digits, ForgetClasses([3]), Damp(), progress=lambda *_: None)
    found = audit(made.model, digits, ForgetClasses([3]), original, progress=lambda *_: None)
    assert found.content["models"]["model"]["edits"] == made.record["details"]["operators"]
    assert found.content["models"]["original"]["edits"] == []
