"""The page's block of neurons: there for methods that reset some, with their numbers."""

import copy

import report_samples

from rasura.report import page

FOUND = {
    "units": [
        {"stage": "layer1", "forget": 12, "retain": 11, "of": 3136, "before": 3.217, "after": 2.118},
        {"stage": "layer3", "forget": 12, "retain": 12, "of": 784, "before": 2.531, "after": -0.123},
    ],
    "generator": {
        "stored": False,
        "restarts": 0,
        "losses": [[0.71, 0.69], [0.8123, 0.6012]],
        "objective": [1.5, 0.2, -0.625],
        "pictures": [report_samples.picture(), "javascript:alert(1)"],
    },
    "curves": {"reset": [5.0, 3.0, 2.25], "settle": [0.75, 0.375]},
}


def with_neurons(found):
    made = copy.deepcopy(report_samples.finding())
    made["models"]["model"]["history"][-1] |= {"method": "cnr", "neurons": found}
    return page([made])


def test_selectivity_images_and_losses_are_shown():
    shown = with_neurons(FOUND)
    for title in ("Selective units, stage by stage", "Synthesised images", "Synthesis", "Reset and stabilisation"):
        assert f"<h4>{title}</h4>" in shown
    for number in ("12 of 3,136", "3.217", "2.118", "12 of 784", "2.531", "−0.123"):
        assert f">{number}</td>" in shown
    assert "generator from 0.710 to 0.812; discriminator from 0.690 to 0.601" in shown
    assert "reset from 5 to 2.250; settle from 0.750 to 0.375" in shown
    assert shown.count("<image href=") == 1 and "javascript:alert" not in shown


def test_without_synthesis_there_are_no_images_and_no_curves_of_it():
    shown = with_neurons(FOUND | {"generator": {}})
    assert "<h4>Selective units, stage by stage</h4>" in shown
    assert "Synthesised images" not in shown and "<h4>Synthesis</h4>" not in shown


def test_other_methods_lack_nothing():
    assert ">Neurons<" not in page([report_samples.finding()])
