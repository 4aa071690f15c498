"""What names of classes, models and paths may hold: a terminal shows them as they are, and obeys none."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_samples import finding

import rasura
from rasura.errors import printable
from rasura.exits import say
from rasura.progress import terminal
from rasura.tables import print_comparison, print_findings, print_summary

NAMES = [
    "a[/b]",
    "[red]",
    "[link=http://x]y[/link]",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "a\nb",
    "\x07\x9b2J",
    "\u202eabc",
]
SOURCE = Path(rasura.__file__).parent


def shown(capsys: pytest.CaptureFixture[str], name: str) -> str:
    """All that was printed; fails if it holds anything that a terminal would obey, or the name is not in it."""
    said = capsys.readouterr()
    both = said.out + said.err
    assert all(letter.isprintable() or letter == "\n" for letter in both), both
    whole = "".join(line.strip("│┃ ") for line in both.splitlines())
    assert printable(name) in whole, both
    return both


@pytest.mark.parametrize("name", NAMES)
def test_a_finding_is_a_table_whatever_its_names(name: str, capsys) -> None:
    one = finding()
    print_findings([one | {"name": name, "request": one["request"] | {"forget": name}}])
    shown(capsys, name)


@pytest.mark.parametrize("name", NAMES)
def test_methods_may_have_any_name(name: str, capsys) -> None:
    measure = {"mean": 0.1, "half_width": None}
    print_summary([{"method": name, "cells": 1, "failed": 0, "verdicts": {"ERASED": 1}, "forget_accuracy": measure}])
    shown(capsys, name)
    row = {"name": name, "verdict": "ERASED", "qualifiers": [], "distance": 0.1, "seconds": 1.0, "memory_mib": None}
    print_comparison([row | {"measures": [{"name": name, "value": 0.5}]}])
    shown(capsys, name)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_progress_and_errors_are_no_markup(name: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter(range(0, 10_000, 100))
    monkeypatch.setattr("rasura.progress.time.monotonic", lambda: next(clock))
    with terminal() as progress:
        for done in (0, 1, 2):
            progress(name, done, 5)
    shown(capsys, name)
    say(f"class: {name}; allowed: none")
    shown(capsys, " ".join(name.split()))


@pytest.mark.parametrize("name", NAMES)
def test_bars_show_labels_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("rasura.progress.PATIENCE", -1.0)
    with terminal() as progress:
        progress(name, 1, 5)
        progress(name, 2, 5)
    assert name not in NAMES[:4] or name in capsys.readouterr().err


def calls(kinds: tuple[str, ...]) -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in kinds:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


def test_every_message_says_what_is_allowed() -> None:
    found = dict(calls(("InputError", "UnchangedError")))
    assert len(found) > 200
    silent = [place for place, node in found.items() if "allowed" not in ast.unparse(node).casefold()]
    assert not silent
