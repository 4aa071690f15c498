"""Classes with few held-out examples are left out of what is asked class by class, by name; `held_out` holds more."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import rasura
from rasura import Data, ForgetClasses, InputError, Recipe
from rasura.auditing import make_probe
from rasura.cli import main
from rasura.data import hash_of_data
from rasura.data.sources import load_data
from rasura.training import fit

NAMES = ("ann", "bob", "cid", "dora", "eve", "finn")
HELD_OUT = (30, 30, 30, 9, 1, 0)


@pytest.fixture(scope="module")
def people() -> Data:
    """Six people: three with enough held-out pictures, one with nine, one with one, one with none."""
    generator = torch.Generator().manual_seed(0)
    faces = torch.randn(len(NAMES), 1, 4, 4, generator=generator)
    parts = []
    for counts in ((40,) * len(NAMES), HELD_OUT):
        labels = torch.repeat_interleave(torch.arange(len(NAMES)), torch.tensor(counts))
        parts.append((faces[labels] + 0.8 * torch.randn(len(labels), 1, 4, 4, generator=generator), labels))
    return Data.from_tensors(*parts, classes=NAMES)


def net(data: Data, seed: int, without: int | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, len(NAMES)))
    kept = torch.ones(len(data.train), dtype=torch.bool) if without is None else data.train.labels != without
    recipe = Recipe(epochs=12, batch_size=16, optimiser="adamw", learning_rate=0.01)
    return fit(made, data.train.take(kept), recipe, seed)


@pytest.fixture(scope="module")
def finding(people) -> rasura.Finding:
    models = [net(people, seed, 0) for seed in (1, 2, 3)]
    return rasura.audit(models[2], people, ForgetClasses("ann"), net(people, 0), models[:2])


def test_small_classes_end_no_audit_and_are_named(finding, tmp_path):
    assert finding.verdict in rasura.VERDICTS and finding.verdict != "INVALID", finding
    note = (
        "left out: no question is asked of these classes alone, which have fewer than 10 held-out examples each: "
        "dora, eve, finn"
    )
    assert note in finding.content["notes"]
    assert finding.content["outputs"]["model"]["per_class"][5] is None
    assert finding.content["heads"]["model"]["alignment"][5] is None
    json.dumps(finding.content, allow_nan=False)
    finding.to_html(tmp_path / "page.html")
    assert "dora, eve, finn" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_small_class_is_not_called_damaged_but_counts_among_all(finding, people):
    probe = make_probe(people, ForgetClasses("ann"), 0)
    assert probe.labels.bincount().tolist() == list(HELD_OUT[:5])
    assert finding.scores.too_few == (3, 4, 5)


def test_a_class_to_forget_must_have_ten(people):
    message = r"data: 9 held-out examples of 'dora'; allowed: 10 or more of a class to forget \(--held-out SHARE .*\)"
    with pytest.raises(InputError, match=message):
        make_probe(people, ForgetClasses("dora"), 0)


# ------------------------------------------------------------------------------------------------ held_out


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(256, size=(8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def test_a_share_of_every_class_is_held_out(folder):
    data = load_data(f"folder:{folder}", held_out=0.4)
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == ([12, 12], [8, 8])
    assert hash_of_data(data) == hash_of_data(load_data(str(folder), held_out=0.4))
    assert hash_of_data(data) != hash_of_data(load_data(str(folder)))
    assert load_data(str(folder)).test.labels.bincount().tolist() == [4, 4]


def test_texts_digits_and_canaries_take_a_share_too(tmp_path):
    rows = [{"text": f"words {number}", "label": number % 2} for number in range(20)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load_data(str(tmp_path / "texts.jsonl"), held_out=0.5).test) == 10
    assert len(load_data("digits", held_out=0.5).test) == pytest.approx(1797 / 2, abs=5)
    assert len(load_data("canaries:5:digits", held_out=0.5).test) == len(load_data("digits", held_out=0.5).test)
    assert hash_of_data(load_data("digits", held_out=1 / 3)) == hash_of_data(load_data("digits"))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 7.0, float("nan")])
def test_a_share_out_of_range_is_refused(share, folder):
    with pytest.raises(InputError, match=r"^held-out: .*; allowed: above 0 and below 1$"):
        load_data(str(folder), held_out=share)


def test_data_that_hold_a_test_part_take_no_share(folder, tmp_path):
    (tmp_path / "made.py").write_text("import rasura\ndef make():\n    return rasura.load_data('digits')\n")
    images = np.zeros((4, 8, 8), np.uint8)
    labels = np.arange(4) % 2
    np.savez(tmp_path / "arrays.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    folder.rename(tmp_path / "parts")
    (tmp_path / "parts" / "train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "parts" / name).rename(tmp_path / "parts" / "train" / name)
        (tmp_path / "parts" / "test" / name).mkdir(parents=True)
        (tmp_path / "parts" / "train" / name / "0.png").rename(tmp_path / "parts" / "test" / name / "0.png")
    (tmp_path / "texts").mkdir()
    for part in ("train", "test"):
        (tmp_path / "texts" / f"{part}.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    for source in ("fashion-mini", "arrays.npz", "parts", "texts", "made.py:make"):
        spec = source if source == "fashion-mini" else str(tmp_path / source)
        with pytest.raises(InputError, match=r"^held-out: 0.3; allowed: for data without a test part, and .* has one$"):
            load_data(spec, held_out=0.3)


def test_the_command_line_holds_out_alike(folder, tmp_path, capsys):
    given = ["--data", str(folder), "--held-out", "0.5", "--model", "convnet,width=4", "--epochs", "1", "--json"]
    assert main(["train", *given, "--out", str(tmp_path / "one")]) == 0
    assert main(["train", *given, "--out", str(tmp_path / "one")]) == 0  # the same data: what is there is kept
    other = [*given[:3], "0.25", *given[4:]]
    assert main(["train", *other, "--out", str(tmp_path / "one")]) == 2
    assert main(["train", *given[:3], "2", *given[4:], "--out", str(tmp_path / "two")]) == 2
    assert "held-out: 2.0; allowed: above 0 and below 1" in capsys.readouterr().err
