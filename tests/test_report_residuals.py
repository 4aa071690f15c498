"""The page's block of residuals: there for methods with adapters, with their numbers."""

import copy
import re

import report_samples

from rasura.report import page

FOUND = {
    "layers": ["layer1", "layer2", "head input"],
    "steps": [20, 60, 100],
    "retain": [[0.1, 0.2, 0.0817], [0.1, 0.3, 0.0923], [0.1, 0.2, 0.0411]],
    "forget": [[0.1, 0.2, 0.2113], [0.2, 0.4, 0.5219], [0.3, 0.6, 0.7317]],
    "distance": [[1.2, 1.1, 1.0131], [1.1, 0.9, 0.8127], [0.9, 0.6, 0.5323]],
}
TRIALS = [
    {"gamma": 1.0, "forget_accuracy": 0.0123, "retain_accuracy": 0.9111},
    {"gamma": 0.1, "forget_accuracy": 0.4567, "retain_accuracy": 0.9222},
]


def with_entry(**fields):
    made = copy.deepcopy(report_samples.finding())
    made["models"]["model"]["history"][-1] |= {"method": "rfa"} | fields
    return made


def test_residuals_are_drawn_and_listed():
    shown = page([with_entry(residuals=FOUND)])
    for number in ("8.2%", "52.2%", "73.2%", "101.3%", "81.3%", "53.2%"):
        assert number in shown
    for title in ("Examples to keep", "Examples to forget"):
        assert f"<h4>{title}</h4>" in shown
    assert "The weight of forgetting" not in shown


def test_the_gamma_curve_is_drawn_where_weights_were_tried():
    shown = page([with_entry(residuals=FOUND, gamma_trials=TRIALS)])
    table = shown[shown.index("The weight of forgetting") :]
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", table)
    at = cells.index("0.1")
    assert cells[at : at + 3] == ["0.1", "45.7%", "92.2%"]  # in the order of gamma
    assert cells[at + 3 : at + 6] == ["1", "1.2%", "91.1%"]


def test_other_methods_lack_nothing():
    assert "Residuals" not in page([report_samples.finding()])
