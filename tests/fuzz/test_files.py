"""Files and words of every kind but data: each is read, or refused in one line that says what is allowed."""

import io
import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import bad_inputs
import pytest
import torch
from fuzzing import damaged, fuzz
from hypothesis import strategies as st
from report_samples import finding
from safetensors.torch import save
from test_scores import tables
from torch import nn

import rasura
from rasura import ForgetClasses, ForgetSamples
from rasura.auditing import write_scores
from rasura.audits import recompute, write_report
from rasura.bench import read_grid
from rasura.cli import main
from rasura.data import Data, read_samples, resolve
from rasura.errors import InputError
from rasura.files import hash_of_file
from rasura.models import build_model, fresh_model, to_card
from rasura.models.adapters import with_adapters
from rasura.models.load import DESCRIPTION, WEIGHTS, write_model
from rasura.runs import RUN, is_done

NET = "convnet,width=2"
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


def test_records_of_runs(tmp_path: Path) -> None:
    spec = {"kind": "train", "seed": 3}

    def target(content: bytes) -> None:
        (tmp_path / RUN).write_bytes(content)
        assert_done_or_refused(is_done, tmp_path, spec)

    fuzz(texts_like({"format": 1, "hash": "0" * 16, "spec": spec, "seconds": 3.5, "versions": {"torch": "2"}}), target)


def test_verdicts(tmp_path: Path) -> None:
    def target(content: bytes) -> None:
        (tmp_path / "verdict.json").write_bytes(content)
        assert_done_or_refused(write_report, tmp_path)

    fuzz(texts_like(finding()), target)


def test_tables_of_scores(tmp_path: Path) -> None:
    verdict = json.dumps(finding())

    def target(content: bytes) -> None:
        (tmp_path / "verdict.json").write_text(verdict)
        (tmp_path / "scores.parquet").write_bytes(content)
        assert_done_or_refused(recompute, tmp_path)

    def stored(scores: Any) -> bytes:
        write_scores(scores, tmp_path / "scores.parquet")
        return (tmp_path / "scores.parquet").read_bytes()

    fuzz(tables().map(stored) | tables().map(stored).flatmap(lambda content: damaged([content])), target)


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
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(4, 3))
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"]))
    adapted.save_pretrained(str(tmp_path))
    plain = nn.Sequential(nn.Linear(4, 3))
    plain.load_state_dict({f"0.{name}": getattr(base[0], name).data for name in ("weight", "bias")})
    note = {"format": 1, "base": rasura.models.hash_of_model(plain), "history": None}
    (tmp_path / "adapter.json").write_text(json.dumps(note))
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".json", ".safetensors")}

    def target(one: tuple[str, bytes]) -> None:
        (tmp_path / one[0]).write_bytes(one[1])
        assert_done_or_refused(with_adapters, plain, [tmp_path])
        (tmp_path / one[0]).write_bytes(whole[one[0]])

    def broken(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        content = whole[name]
        kind = texts_like(json.loads(content)) if name.endswith(".json") else damaged([content])
        return st.tuples(st.just(name), kind)

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
