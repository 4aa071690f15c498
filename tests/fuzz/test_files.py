"""Files and words of every kind but data: each is read, or refused in one line that says what is allowed."""

import copy
import io
import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import bad_inputs
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from fuzzing import damaged, fuzz
from hypothesis import strategies as st
from report_samples import finding, provenance
from safetensors.torch import save
from test_scores import noisy_table, tables
from torch import nn

import rasura
from rasura import ForgetClasses, ForgetSamples
from rasura.auditing import Scores, write_scores
from rasura.auditing.scores import COLUMNS
from rasura.audits import SCORES, VERDICT, recompute, write_report
from rasura.bench import read_grid
from rasura.cli import main
from rasura.data import Data, read_samples, resolve
from rasura.errors import InputError
from rasura.files import as_json, hash_of_file, hash_of_json, write_json
from rasura.finding import recomputed
from rasura.models import build_model, fresh_model, hash_of_model, to_card
from rasura.models.adapters import (
    NOTE,
    keep_adapter,
    weights_of_adapter,
    with_adapters,
    with_new_adapter,
    write_adapter,
)
from rasura.models.load import DESCRIPTION, WEIGHTS, write_model
from rasura.runs import is_done
from rasura.sealed import RUN, check_model_folder, seal, shared

NET = "convnet,width=2"
SPEC = {"kind": "train", "seed": 3}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def assert_done_or_refused(work: Any, *given: Any) -> None:
    refused = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the command line does
        try:
            work(*given)
        except InputError as error:
            refused = str(error)
    assert "\n" not in refused
    assert not refused or "allowed" in refused.casefold()


@st.composite
def changed(draw: st.DrawFn, content: dict[str, Any]) -> bytes:
    """The content with the value at one or two places replaced, or taken out, as JSON."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        inside: Any = content
        key = draw(st.sampled_from(sorted(inside)))
        while isinstance(inside[key], dict | list) and inside[key] and draw(st.booleans()):
            inside = inside[key]
            key = draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if draw(st.booleans()):
            inside[key] = draw(JSON)
        elif len(content) > 2:
            del inside[key]
    return json.dumps(content).encode()


def texts_like(content: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return changed(content) | damaged([json.dumps(content).encode()])


@pytest.fixture(scope="module")
def digits() -> Data:
    return rasura.load_data("digits")


@pytest.fixture
def folder(digits: Data, tmp_path: Path) -> Path:
    write_model(fresh_model(to_card(NET, digits)), tmp_path)
    return tmp_path


def test_model_cards(folder: Path) -> None:
    def target(content: bytes) -> None:
        (folder / DESCRIPTION).write_bytes(content)
        assert_done_or_refused(rasura.load_model, folder)

    fuzz(texts_like(json.loads((folder / DESCRIPTION).read_text())), target)


def test_weights_in_a_model_folder(folder: Path) -> None:
    card = json.loads((folder / DESCRIPTION).read_text())

    def target(content: bytes) -> None:
        (folder / WEIGHTS).write_bytes(content)
        (folder / DESCRIPTION).write_text(json.dumps(card | {"sha256": hash_of_file(folder / WEIGHTS)}))
        assert_done_or_refused(rasura.load_model, folder)

    fuzz(damaged([(folder / WEIGHTS).read_bytes()]), target)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_files_of_weights(suffix: str, digits: Data, tmp_path: Path) -> None:
    card, buffer = to_card(NET, digits), io.BytesIO()
    state = fresh_model(card).state_dict()
    torch.save(state, buffer)

    def target(content: bytes) -> None:
        (tmp_path / f"x.{suffix}").write_bytes(content)
        assert_done_or_refused(rasura.load_model, tmp_path / f"x.{suffix}", NET, card)

    fuzz(damaged([save(state) if suffix == "safetensors" else buffer.getvalue()]), target)


def sealed_anew(folder: Path) -> None:
    """Give the folder a `run.json` of the files as they are now: digests hide no damage from the readers."""
    seal(folder, {"hash": hash_of_json(SPEC), "spec": SPEC})


def hashed_anew(content: bytes) -> bytes:
    """A damaged `run.json` with the hashes of what it says now, if it is an object still."""
    try:
        record = json.loads(content)
        record = {key: value for key, value in record.items() if key != "sha256"}
        record |= {"hash": hash_of_json(record["spec"])} if "spec" in record else {}
        return as_json(record | {"sha256": hash_of_json(record)})
    except (ValueError, AttributeError):
        return content


def test_records_of_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    seal(tmp_path, {"hash": hash_of_json(SPEC), "spec": SPEC, "seconds": 3.5, "versions": {"torch": "2"}})

    def target(content: bytes) -> None:
        (tmp_path / RUN).write_bytes(content)
        assert_done_or_refused(is_done, tmp_path, SPEC)
        assert_done_or_refused(check_model_folder, tmp_path)
        assert_done_or_refused(shared, tmp_path, "bench")

    contents = texts_like(json.loads((tmp_path / RUN).read_bytes()))
    fuzz(contents | contents.map(hashed_anew), target)


def verdict_of(scores: Scores) -> dict[str, Any]:
    """What `verdict.json` may hold beside these scores."""
    data = {"name": "pets", "classes": list(scores.classes), "held_out": 120, "held_out_forget": 40}
    request = {"kind": "classes", "forget": "a", "classes": [0], "samples": None}
    models = {role: provenance() for role in scores.models}
    found = finding(data=data | {"overlap_left_out": 0}, request=request, pictures=[], models=models, on_request={})
    return recomputed(found, scores).content


def test_verdicts(tmp_path: Path) -> None:
    scores = noisy_table(0, 0)
    write_scores(scores, tmp_path / SCORES)

    def target(content: bytes) -> None:
        (tmp_path / VERDICT).write_bytes(content)
        for work in (write_report, recompute):
            sealed_anew(tmp_path)
            assert_done_or_refused(work, tmp_path)

    fuzz(texts_like(verdict_of(scores)), target)


EDITS = st.tuples(
    st.sampled_from(["set", "set", "cut", "double"]),
    st.sampled_from(COLUMNS[3:]).flatmap(
        lambda column: st.tuples(
            st.just(column), st.integers(-2, 200) | st.none() if column != "value" else st.floats()
        )
    )
    | st.tuples(st.sampled_from(COLUMNS[:3]), st.sampled_from(["model", "output", "linear", "membership", ""])),
    st.floats(0, 1),
    st.floats(0, 1),
)
"""What is done to some of the rows of a table: a column set to a value, the rows cut out, or there twice."""


def edited(table: pa.Table, edits: list[tuple[str, tuple[str, Any], float, float]]) -> pa.Table:
    rows = table.to_pylist()
    for kind, (column, value), place, length in edits:
        start = round(place * len(rows))
        stop = start + round(length * (len(rows) - start))
        changed = {
            "set": [row | {column: value} for row in rows[start:stop]],
            "cut": [],
            "double": rows[start:stop] * 2,
        }
        rows = rows[:start] + changed[kind] + rows[stop:]
    return pa.Table.from_pylist(rows, schema=table.schema)


def test_tables_of_scores(tmp_path: Path) -> None:
    scores = noisy_table(0, 0)
    verdict = json.dumps(verdict_of(scores))

    def target(content: bytes) -> None:
        (tmp_path / VERDICT).write_text(verdict)
        (tmp_path / SCORES).write_bytes(content)
        sealed_anew(tmp_path)
        assert_done_or_refused(recompute, tmp_path)

    def stored(scores: Scores) -> bytes:
        write_scores(scores, tmp_path / SCORES)
        return (tmp_path / SCORES).read_bytes()

    def stored_anew(table: pa.Table) -> bytes:
        parquet.write_table(table, tmp_path / SCORES)
        return (tmp_path / SCORES).read_bytes()

    whole = stored(scores)
    table = parquet.read_table(tmp_path / SCORES)
    rows = st.lists(EDITS, max_size=3).map(lambda edits: stored_anew(edited(table, edits)))
    fuzz(rows | rows | tables().map(stored) | damaged([whole]), target)


def test_grids(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"

    def target(content: bytes) -> None:
        path.write_bytes(content)
        assert_done_or_refused(read_grid, path)

    values = st.sampled_from(["[]", "3", "-1", "0.5", "nan", "true", '"a"', "[[]]", '["3"]', "{a = 1}", "1979-05-27"])
    lines = bad_inputs.GRID.splitlines()
    other = st.tuples(st.sampled_from([line for line in lines if "=" in line]), values).map(
        lambda one: bad_inputs.GRID.replace(one[0], f"{one[0].partition('=')[0]}= {one[1]}").encode()
    )
    fuzz(damaged([bad_inputs.GRID.encode()]) | other, target)


def test_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(4, 3))
    adapted = with_new_adapter(copy.deepcopy(base), {"0": 2}, seed=0)
    keep_adapter(base, adapted.peft_config["default"], weights_of_adapter(adapted), hash_of_model(base))
    write_adapter(base, tmp_path / "adapter")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "adapter").glob("adapter*")}
    with_adapters(base, [tmp_path / "adapter"])

    def target(one: tuple[str, bytes]) -> None:
        for name, content in (whole | dict([one])).items():
            (tmp_path / "adapter" / name).write_bytes(content)
        assert_done_or_refused(with_adapters, base, [tmp_path / "adapter"])
        note = json.loads(whole[NOTE]) | {"sha256": {name: hash_of_file(tmp_path / "adapter" / name) for name in rest}}
        del note["hash"]
        write_json(tmp_path / "adapter" / NOTE, note | {"hash": hash_of_json(note)})
        assert_done_or_refused(with_adapters, base, [tmp_path / "adapter"])

    def broken(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        content = whole[name]
        kind = texts_like(json.loads(content)) if name.endswith(".json") else damaged([content])
        return st.tuples(st.just(name), kind)

    rest = sorted({*whole} - {NOTE})
    fuzz(st.sampled_from(sorted(whole)).flatmap(broken), target)


def test_files_and_words_of_samples(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"

    def target(content: bytes | str) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        assert_done_or_refused(read_samples, content if isinstance(content, str) else str(path), digits)

    words = st.from_regex(r"\A(\d{1,6}(,\d{1,6})*|\d{1,400}|\d*\.?\d*%(@\d*)?|canaries:\d*(@\d*)?|.*)\Z")
    fuzz(damaged([b"3\n17\n99\n"]) | words, target)


def test_requests(digits: Data) -> None:
    def target(request: ForgetClasses | ForgetSamples) -> None:
        assert_done_or_refused(resolve, request, digits)

    names = st.text(max_size=3) | st.integers() | st.sampled_from(digits.classes)
    classes = st.lists(names, max_size=11).map(ForgetClasses)
    fuzz(classes | st.lists(st.integers() | st.integers(0, 1197), max_size=50).map(ForgetSamples), target)


def test_architectures() -> None:
    names = st.sampled_from(["convnet", "resnet8", "vit", "mlp", "distilbert", "timm:resnet18", "x.py:net", "hf:x"])
    values = st.integers(-2, 64).map(str) | st.sampled_from(["", "true", "a", "1.5", "nan"]) | st.text(max_size=3)
    keys = st.sampled_from(["width", "depth", "heads", "patch", "classes", "x"]) | st.text(max_size=3)
    options = st.lists(st.tuples(keys, values).map("=".join), max_size=3)
    words = st.tuples(names | st.text(max_size=8), options).map(lambda one: ",".join([one[0], *one[1]]))
    fuzz(words, lambda text: assert_done_or_refused(build_model, text, 10, 1, 8))


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Words of good command lines in any number and order, between other words: nothing trains or audits."""
    monkeypatch.chdir(tmp_path)
    good = {word for base in bad_inputs.BASE.values() for word in shlex.split(base.replace("{w}", "nowhere"))}
    good -= {"digits"}  # without data nothing begins
    words = st.sampled_from(sorted(good)) | st.text(max_size=6) | st.integers().map(str)

    def target(arguments: list[str]) -> None:
        assert main(["train", *arguments] if not arguments or arguments[0] in ("demo", "list") else arguments) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1
        assert not any(tmp_path.iterdir())

    help_ = st.lists(words.filter(lambda word: word not in ("-h", "--help", "--version")), max_size=8)
    fuzz(help_, target)
