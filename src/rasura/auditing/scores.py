"""Per-example scores of all models as one table, in memory and as Parquet: the verdict is computed from it alone."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rasura.auditing.decoded import Decoded
from rasura.auditing.members import Members
from rasura.auditing.probe import LEAST_EXAMPLES
from rasura.memory import check_room

ORIGINAL, MODEL = "original", "model"
RANDOM_NET, RAW_INPUTS = "random net", "raw inputs"
MEMBERSHIP = "membership"
"""What the file calls the rows on pairs: `layer` is the signal, `draw` is 1 for the training example of a pair."""
COLUMNS = ["model", "decoder", "layer", "shots", "draw", "example", "label", "predicted", "value"]
"""Of the file; the first three hold words, each of which lies in memory once."""
BYTES_PER_ROW = 64
"""Of the table in memory, with the places of its words."""


def reference_name(number: int) -> str:
    """What the table calls a retrained reference.

    >>> reference_name(0)
    'reference 1'
    """
    return f"reference {number + 1}"


@dataclass(frozen=True, eq=False)
class Scores:
    """What every decoder said, for every model, with the truth.

    Attributes:
        labels: int32 `[N]`, the true classes of the probe examples.
        rows: int64 `[N]`, their positions in the data's held-out part.
        forget_classes: what was to be forgotten; empty for a sample request.
        classes: the classes' names.
        models: per model ("model", "original", "reference 1", …), what its decoders said.
        untrained: the same for what never saw any class ("random net 1", …, "raw inputs"): head-input decoders only.
        members: per model, how it treats pairs of a training example of the request and a held-out one.
    """

    labels: np.ndarray
    rows: np.ndarray
    forget_classes: tuple[int, ...]
    classes: tuple[str, ...]
    models: dict[str, list[Decoded]]
    untrained: dict[str, list[Decoded]] = field(default_factory=dict)
    members: dict[str, Members] = field(default_factory=dict)

    @property
    def forget(self) -> np.ndarray:
        """bool `[N]`, true for examples of a forget class."""
        return np.isin(self.labels, self.forget_classes)

    @property
    def references(self) -> list[str]:
        """The names of the retrained models."""
        return [name for name in self.models if name not in (ORIGINAL, MODEL)]

    @property
    def too_few(self) -> tuple[int, ...]:
        """Numbers of the classes that have too few examples to be asked about one by one."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return tuple(np.flatnonzero(counts < LEAST_EXAMPLES).tolist())

    def recast(self, roles: Mapping[str, str]) -> "Scores":
        """The same table with models in other roles, by the names that they have now; all others are left out."""
        return replace(
            self,
            models={role: self.models[name] for role, name in roles.items()},
            members={role: self.members[name] for role, name in roles.items() if name in self.members},
        )

    def right(self, model: str, decoder: str, layer: str, shots: int = 0) -> np.ndarray | None:
        """Share of draws in which each example was named rightly, `[N]`; NaN where not scored; None if not measured."""
        rows = [
            np.where(one.predicted < 0, np.nan, one.predicted == self.labels)
            for one in (self.models.get(model) or self.untrained.get(model) or ())
            if (one.decoder, one.layer, one.shots) == (decoder, layer, shots)
        ]
        return np.mean(rows, axis=0) if rows else None

    def value(self, model: str, decoder: str) -> np.ndarray | None:
        """The number per example that a decoder gave, `[N]`; None if not measured."""
        return next((one.value for one in self.models[model] if one.decoder == decoder), None)

    def layers(self, model: str, decoder: str) -> set[str]:
        """Where one model has the decoder."""
        return {one.layer for one in self.models[model] if one.decoder == decoder}

    def places(self, decoder: str) -> list[tuple[str, int]]:
        """Every (layer, shots) at which all models have the decoder, in the audited model's order."""
        measured = [{(one.layer, one.shots) for one in said if one.decoder == decoder} for said in self.models.values()]
        order = [(one.layer, one.shots) for one in self.models[MODEL] if one.decoder == decoder]
        return [place for place in dict.fromkeys(order) if all(place in each for each in measured)]


def write_scores(scores: Scores, path: Path) -> None:
    """One row per model, decoder, layer, shots, draw and example."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.concat_tables([*_tables_of_answers(scores), *_tables_of_pairs(scores)]).unify_dictionaries()
    described = {"classes": json.dumps(scores.classes), "forget": ",".join(map(str, scores.forget_classes))}
    parquet.write_table(table.replace_schema_metadata(described), path, compression="zstd")


def _tables_of_answers(scores: Scores) -> Iterator[Any]:
    for model, said in (scores.models | scores.untrained).items():
        for one in said:
            kept = np.flatnonzero(one.predicted >= 0)
            yield _table(
                (model, one.decoder, one.layer, one.shots, one.draw),
                scores.rows[kept],
                scores.labels[kept],
                one.predicted[kept],
                None if one.value is None else one.value[kept],
            )


def _tables_of_pairs(scores: Scores) -> Iterator[Any]:
    for model, members in scores.members.items():
        for signal, values in members.values.items():
            for part, rows in enumerate((members.held_out_rows, members.train_rows)):
                silent = np.full(len(rows), -1)
                yield _table((model, MEMBERSHIP, signal, 0, part), rows, members.labels, silent, values[part])


def _table(key: tuple[str, str, str, int, int], rows: Any, labels: Any, predicted: Any, value: Any) -> Any:
    import pyarrow as pa

    model, decoder, layer, shots, draw = key
    return pa.table(
        {
            "model": _repeated(model, len(rows)),
            "decoder": _repeated(decoder, len(rows)),
            "layer": _repeated(layer, len(rows)),
            "shots": np.full(len(rows), shots, dtype=np.int16),
            "draw": np.full(len(rows), draw, dtype=np.int16),
            "example": rows,
            "label": np.asarray(labels, dtype=np.int32),
            "predicted": np.asarray(predicted, dtype=np.int32),
            "value": pa.nulls(len(rows), pa.float32()) if value is None else pa.array(value, pa.float32()),
        }
    )


def read_scores(path: Path) -> Scores:
    """The table that `write_scores` wrote.

    Raises:
        InputError: it would take more memory than it may.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    check_room(f"scores: {path}", BYTES_PER_ROW * parquet.read_metadata(path).num_rows, path.stat().st_size)
    table = parquet.read_table(path, columns=COLUMNS, read_dictionary=COLUMNS[:3])
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    of_pairs = table["decoder"].to_numpy(zero_copy_only=False) == MEMBERSHIP
    said, pairs = (table.filter(pa.array(mask)) for mask in (~of_pairs, of_pairs))
    rows, first = np.unique(said["example"].to_numpy(), return_index=True)
    labels = said["label"].to_numpy()[first]
    models: dict[str, list[Decoded]] = {}
    for key, part in _runs(said):
        at = np.searchsorted(rows, part["example"].to_numpy())
        predicted = np.full(len(rows), -1, dtype=np.int32)
        predicted[at] = part["predicted"].to_numpy()
        models.setdefault(key[0], []).append(Decoded(*key[1:], predicted, _values(part, at, len(rows))))
    untrained = {name: models.pop(name) for name in list(models) if name.startswith((RANDOM_NET, RAW_INPUTS))}
    forget = tuple(int(number) for number in metadata["forget"].split(",") if number)
    classes = tuple(json.loads(metadata["classes"]))
    return Scores(labels, rows, forget, classes, models, untrained, _members(pairs))


def _runs(table: Any) -> Iterator[tuple[tuple[str, str, str, int, int], Any]]:
    """The stretches of rows that share model, decoder, layer, shots and draw."""
    keys = [table[name].to_numpy(zero_copy_only=False) for name in ("model", "decoder", "layer", "shots", "draw")]
    change = np.ones(table.num_rows, dtype=bool)
    change[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(change)
    for start, stop in itertools.pairwise([*starts, table.num_rows]):
        model, decoder, layer, shots, draw = (key[start] for key in keys)
        yield (str(model), str(decoder), str(layer), int(shots), int(draw)), table.slice(start, stop - start)


def _values(part: Any, at: np.ndarray, count: int) -> np.ndarray | None:
    if part["value"].null_count:
        return None
    found = np.full(count, np.nan, dtype=np.float32)
    found[at] = part["value"].to_numpy()
    return found


def _members(table: Any) -> dict[str, Members]:
    rows: dict[int, np.ndarray] = {}
    labels: np.ndarray = np.empty(0, dtype=np.int32)
    values: dict[str, dict[str, list[np.ndarray]]] = {}
    for (model, _, signal, _, part), stretch in _runs(table):
        rows[part], labels = stretch["example"].to_numpy(), stretch["label"].to_numpy()
        values.setdefault(model, {}).setdefault(signal, []).append(stretch["value"].to_numpy())
    return {
        model: Members(rows[1], rows[0], labels, {name: np.stack(both) for name, both in signals.items()})
        for model, signals in values.items()
    }


def _repeated(text: str, count: int):
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int16), pa.array([text]))
