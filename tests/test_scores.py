"""The per-example table: what it computes, and that Parquet brings all of it back."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rasura.auditing import (
    MODEL,
    ORIGINAL,
    Decoded,
    Members,
    Scores,
    check_whole,
    judge,
    read_scores,
    reference_name,
    write_scores,
)
from rasura.auditing.decoded import BIAS, FEW_SHOT, HEAD_INPUT, HEAD_SWAP, LINEAR, OUTPUT, RUNNER_UP, as_decoded
from rasura.errors import InputError

DECODERS = [OUTPUT, LINEAR, FEW_SHOT, "unwrapped", BIAS, HEAD_SWAP]


def said(decoder: str, answers: list[int], layer: str = "output", shots: int = 0, draw: int = 0) -> Decoded:
    return Decoded(decoder, layer, shots, draw, np.array(answers, dtype=np.int32))


def table(models: dict[str, list[Decoded]], labels: list[int], forget=(0,), classes=("a", "b", "c")) -> Scores:
    return Scores(np.array(labels, dtype=np.int32), np.arange(len(labels)), forget, classes, models)


def numbers(value: np.ndarray | None) -> list[float] | None:
    return None if value is None else np.nan_to_num(value, nan=-1).tolist()


def same(one: Scores, two: Scores) -> bool:
    """Whether two tables are equal in every field, value, type and order."""

    def rows(scores: Scores):
        said = [
            (model, d.decoder, d.layer, d.shots, d.draw, d.predicted.dtype, d.predicted.tolist(), numbers(d.value))
            for model, decoded in (scores.models | scores.untrained).items()
            for d in decoded
        ]
        pairs = [
            (model, one.train_rows.tolist(), one.held_out_rows.tolist(), one.labels.tolist(), signal, values.tolist())
            for model, one in scores.members.items()
            for signal, values in one.values.items()
        ]
        return said, list(scores.models), list(scores.untrained), pairs

    return (
        rows(one) == rows(two)
        and (one.labels.dtype, one.labels.tolist()) == (two.labels.dtype, two.labels.tolist())
        and (one.rows.dtype, one.rows.tolist()) == (two.rows.dtype, two.rows.tolist())
        and (one.forget_classes, one.classes) == (two.forget_classes, two.classes)
    )


@st.composite
def tables(draw) -> Scores:
    """Any table as an audit makes one: every model's own answers are whole, decoders may leave examples out."""
    names = draw(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=5, unique=True))
    count, classes = draw(st.integers(1, 12)), len(names)
    rows = sorted(draw(st.sets(st.integers(0, 10**6), min_size=count, max_size=count)))
    numbers = st.integers(0, classes - 1)
    labels = draw(st.lists(numbers, min_size=count, max_size=count))
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(DECODERS), st.text(max_size=8), st.integers(0, 100), st.integers(0, 9)),
            max_size=5,
            unique=True,
        )
    )
    some = st.lists(st.integers(-1, classes - 1), min_size=count, max_size=count).filter(lambda row: max(row) >= 0)
    models = {}
    for model in [MODEL, ORIGINAL, *map(reference_name, range(draw(st.integers(0, 3))))]:
        whole = said(OUTPUT, draw(st.lists(numbers, min_size=count, max_size=count)))
        models[model] = [
            whole,
            replace(whole, decoder=RUNNER_UP),
            *(said(d, draw(some), layer, shots, number) for d, layer, shots, number in places),
        ]
    forget = draw(st.sets(numbers, min_size=1, max_size=classes - 1))
    models[MODEL][0] = replace(models[MODEL][0], value=np.arange(count, dtype=np.float32) / 7)
    untrained = {"random net": [said(LINEAR, draw(some), HEAD_INPUT)]} if draw(st.booleans()) else {}
    pairs = draw(st.integers(0, 5))
    members = {model: pairs_of(pairs, at) for at, model in enumerate(models)} if pairs else {}
    whole_request = () if pairs and draw(st.booleans()) else tuple(sorted(forget))
    rest = (whole_request, tuple(names), models, untrained, members)
    return Scores(np.array(labels, np.int32), np.array(rows), *rest)


def pairs_of(count: int, seed: int) -> Members:
    generator = np.random.default_rng(seed)
    values = {name: generator.normal(size=(2, count)).astype(np.float32) for name in ("loss", "attack")}
    return Members(np.arange(count) + 3, np.arange(count), np.zeros(count, np.int32), values)


@given(tables())
@settings(max_examples=60, deadline=None)
def test_parquet_brings_back_the_very_same_table(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    write_scores(scores, path)
    assert same(read_scores(path), scores)


def test_class_numbers_beyond_sixteen_bits_come_back(tmp_path):
    names = tuple(map(str, range(70_000)))
    labels, answers = [40_000, 69_999, 3], [69_999, 40_000, 3]
    scores = table({MODEL: [said(OUTPUT, answers)], ORIGINAL: [said(OUTPUT, labels)]}, labels, (40_000,), names)
    assert as_decoded(OUTPUT, "output", torch.tensor(answers)).predicted.tolist() == answers
    write_scores(scores, tmp_path / "scores.parquet")
    found = read_scores(tmp_path / "scores.parquet")
    assert same(found, scores)
    assert found.models[MODEL][0].predicted.tolist() == answers


def test_a_table_that_unpacks_to_more_than_there_is_room_for_is_refused(tmp_path):
    rows = 2**25
    zeros = {name: pa.array(np.zeros(rows, np.int8)) for name in ("example", "label")}
    parquet.write_table(pa.table(zeros), tmp_path / "scores.parquet", compression="zstd")
    assert (tmp_path / "scores.parquet").stat().st_size < 2**20
    with pytest.raises(InputError, match=r"scores.parquet unpacks to 2.0 GiB, .* allowed: 100 times beyond 1 GiB"):
        read_scores(tmp_path / "scores.parquet")


def test_the_file_is_a_plain_table_with_a_row_per_scored_example(tmp_path):
    models = {
        MODEL: [said(OUTPUT, [0, 1, 2]), said(FEW_SHOT, [-1, 1, -1], HEAD_INPUT, 5, 3)],
        ORIGINAL: [said(OUTPUT, [0, 0, 0])],
    }
    scores = Scores(np.array([0, 1, 2], np.int32), np.array([4, 7, 9]), (1,), ("a", "b", "c"), models)
    write_scores(scores, tmp_path / "scores.parquet")
    rows = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(rows) == 7
    few = {"model": MODEL, "decoder": FEW_SHOT, "layer": HEAD_INPUT, "shots": 5, "draw": 3}
    assert rows[3] == few | {"example": 7, "label": 1, "predicted": 1, "value": None}


def test_right_is_the_share_of_draws_that_named_an_example():
    models = {
        MODEL: [
            said(FEW_SHOT, [0, 1, -1], HEAD_INPUT, 5, 0),
            said(FEW_SHOT, [1, 1, -1], HEAD_INPUT, 5, 1),
            said(FEW_SHOT, [2, 2, 2], HEAD_INPUT, 10, 0),
            said(OUTPUT, [0, 0, 2]),
        ]
    }
    scores = table(models, [0, 1, 2])
    assert scores.right(MODEL, OUTPUT, "output") == pytest.approx([1, 0, 1])
    assert scores.right(MODEL, FEW_SHOT, HEAD_INPUT, 5) == pytest.approx([0.5, 1, np.nan], nan_ok=True)
    assert scores.right(MODEL, FEW_SHOT, HEAD_INPUT, 10) == pytest.approx([0, 0, 1])
    assert scores.right(MODEL, FEW_SHOT, HEAD_INPUT, 0) is None
    assert scores.right(MODEL, FEW_SHOT, "layer1", 5) is None


def test_places_are_those_that_every_model_has_in_the_audited_model_s_order():
    def model(*layers: str) -> list[Decoded]:
        return [said(LINEAR, [0], layer) for layer in layers]

    scores = table(
        {ORIGINAL: model("b", "a", "d"), MODEL: model("c", "a", "b"), reference_name(0): model("a", "b")}, [0]
    )
    assert scores.places(LINEAR) == [("a", 0), ("b", 0)]
    assert scores.places(OUTPUT) == []


def test_draws_of_the_same_shots_are_one_place():
    model = [said(FEW_SHOT, [0], HEAD_INPUT, shots, draw) for shots in (1, 2) for draw in range(3)]
    assert table({MODEL: model, ORIGINAL: model}, [0]).places(FEW_SHOT) == [(HEAD_INPUT, 1), (HEAD_INPUT, 2)]


def test_references_are_all_but_model_and_original():
    names = [MODEL, ORIGINAL, reference_name(0), reference_name(1)]
    scores = table({name: [said(OUTPUT, [0, 1])] for name in names}, [0, 1], forget=(1,))
    assert scores.references == ["reference 1", "reference 2"]
    assert scores.forget.tolist() == [False, True]


def noisy_table(seed: int, references: int) -> Scores:
    """Random answers with different accuracies per model; 40 examples of each of three classes."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 40)

    def answers(forget: float, retain: float, only_forget: bool = False) -> list[int]:
        right = generator.random(120) < np.where(labels == 0, forget, retain)
        row = np.where(right, labels, (labels + 1) % 3)
        return np.where(only_forget & (labels != 0), -1, row).tolist()

    def model(level: float) -> list[Decoded]:
        return [
            said(OUTPUT, answers(level if level > 0.5 else 0, 0.97)),
            said(RUNNER_UP, answers(0, 0.97)),
            said(LINEAR, answers(level, 0.9), HEAD_INPUT),
            said(LINEAR, answers(level, 0.9), "layer1"),
            *(
                said(FEW_SHOT, answers(level, 0, True), HEAD_INPUT, n, d)
                for n in (1, 5, 0)
                for d in range(2 if n else 1)
            ),
            said(BIAS, answers(level, 0.9)),
            said(HEAD_SWAP, answers(level / 2, 0.9), HEAD_INPUT),
        ]

    levels = {MODEL: 0.45, ORIGINAL: 0.95} | {reference_name(k): 0.4 for k in range(references)}
    return table({name: model(level) for name, level in levels.items()}, labels.tolist())


@pytest.mark.parametrize("references", [0, 1, 3])
def test_a_judgement_from_the_file_is_the_judgement_from_memory(tmp_path, references):
    scores = noisy_table(references, references)
    write_scores(scores, tmp_path / "scores.parquet")
    assert judge(read_scores(tmp_path / "scores.parquet"), seed=3) == judge(scores, seed=3)


@pytest.mark.parametrize("name", ["two\nlines", "\r\n", "tab\t", "\x1b[31m", "\x00", "[", '"', "é"])
def test_class_names_with_control_characters_come_back(name, tmp_path):
    scores = table({ORIGINAL: [said(OUTPUT, [0, 1])], MODEL: [said(OUTPUT, [0, 1])]}, [0, 1], classes=(name, "other"))
    write_scores(scores, tmp_path / "scores.parquet")
    assert read_scores(tmp_path / "scores.parquet").classes == (name, "other")


def without(scores: Scores, model: str, decoder: str) -> Scores:
    return replace(scores, models=scores.models | {model: [d for d in scores.models[model] if d.decoder != decoder]})


def answering(scores: Scores, model: str, *answers: int) -> Scores:
    """The table with the first answers of a model's output replaced."""
    changed = [replace(one, predicted=one.predicted.copy()) for one in scores.models[model]]
    changed[0].predicted[: len(answers)] = answers
    return replace(scores, models=scores.models | {model: changed})


WHOLE = noisy_table(0, 1)
PAIRS = pairs_of(5, 0)
TORN = {
    "no model": replace(WHOLE, models={ORIGINAL: WHOLE.models[ORIGINAL]}),
    "no output": without(WHOLE, ORIGINAL, OUTPUT),
    "no second answer": without(WHOLE, MODEL, RUNNER_UP),
    "no reader": without(WHOLE, reference_name(0), LINEAR),
    "an example without answer": answering(WHOLE, MODEL, 0, -1),
    "an answer beyond": answering(WHOLE, MODEL, 3),
    "a label beyond": replace(WHOLE, labels=WHOLE.labels + 1),
    "nothing to forget": replace(WHOLE, forget_classes=(7,)),
    "nothing to keep": replace(WHOLE, forget_classes=(0, 1, 2)),
    "half a pair": replace(WHOLE, members={MODEL: replace(PAIRS, values={"loss": PAIRS.values["loss"][:1]})}),
    "pairs without labels": replace(WHOLE, members={MODEL: replace(PAIRS, labels=PAIRS.labels[:3])}),
}


@pytest.mark.parametrize("name", TORN)
def test_a_table_that_no_audit_writes_is_refused(name):
    check_whole(replace(WHOLE, members={MODEL: PAIRS}))
    with pytest.raises(InputError, match=r"^scores: .*; allowed: the table as rasura wrote it$"):
        check_whole(TORN[name])
