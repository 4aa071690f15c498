"""What the fuzz targets share: damaged copies of valid files, and rounds of them until the time is up.

`FUZZ_SECONDS` is the time of each target: 0.2 in `make test`, 600 in `make fuzz`.
"""

import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.2"))
ROUND = 10
"""Examples between two looks at the clock."""
TELLING = [
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\n",
    b",",
    b'"',
    b"[",
]
"""What breaks readers more often than other bytes: sizes of nothing and of too much, and what ends a word."""


def fuzz(examples: st.SearchStrategy[Any], target: Callable[[Any], None]) -> None:
    """Call `target` with examples until the time is up; what it raises is shrunk and shown by hypothesis."""
    end = time.monotonic() + SECONDS
    quiet = settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    for number in count():
        hypothesis.seed(number)(quiet(given(examples)(target)))()
        if time.monotonic() > end:
            return


def damaged(contents: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Copies of valid contents with up to eight edits (bytes replaced, put in, cut out or doubled), or any bytes."""
    pieces = st.sampled_from(TELLING) | st.binary(min_size=1, max_size=8)
    edit = st.tuples(st.sampled_from(("replace", "insert", "cut", "double")), st.floats(0, 1), st.floats(0, 1), pieces)
    edited = st.builds(_edited, st.sampled_from(contents), st.lists(edit, min_size=1, max_size=8))
    return edited | edited | edited | st.binary(max_size=200)


def _edited(content: bytes, edits: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, place, length, piece in edits:
        at = round(place * len(content))
        stop = at + round(length**4 * (len(content) - at))  # mostly short
        if kind == "replace":
            content = content[:at] + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "cut":
            content = content[:at] + content[stop:]
        else:
            content = content[:stop] + content[at:]
    return content
