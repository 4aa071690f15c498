"""Per-example scores of all models as one table, in memory and as Parquet: everything else is computed from it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rasura.auditing.measure import Decoded

ORIGINAL, MODEL = "original", "model"


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
        labels: int16 `[N]`, the true classes of the probe examples.
        rows: int64 `[N]`, their positions in the data's held-out part.
        forget_classes: what was to be forgotten.
        classes: the classes' names.
        models: per model ("model", "original", "reference 1", …), what its decoders said.
    """

    labels: np.ndarray
    rows: np.ndarray
    forget_classes: tuple[int, ...]
    classes: tuple[str, ...]
    models: dict[str, list[Decoded]]

    @property
    def forget(self) -> np.ndarray:
        """bool `[N]`, true for examples of a forget class."""
        return np.isin(self.labels, self.forget_classes)

    @property
    def references(self) -> list[str]:
        """The names of the retrained models."""
        return [name for name in self.models if name not in (ORIGINAL, MODEL)]

    def right(self, model: str, decoder: str, layer: str, shots: int = 0) -> np.ndarray | None:
        """Share of draws in which each example was named rightly, `[N]`; NaN where not scored; None if not measured."""
        rows = [
            np.where(one.predicted < 0, np.nan, one.predicted == self.labels)
            for one in self.models[model]
            if (one.decoder, one.layer, one.shots) == (decoder, layer, shots)
        ]
        return np.mean(rows, axis=0) if rows else None

    def places(self, decoder: str) -> list[tuple[str, int]]:
        """Every (layer, shots) at which all models have the decoder, in the audited model's order."""
        measured = [{(one.layer, one.shots) for one in said if one.decoder == decoder} for said in self.models.values()]
        order = [(one.layer, one.shots) for one in self.models[MODEL] if one.decoder == decoder]
        return [place for place in dict.fromkeys(order) if all(place in each for each in measured)]


def write_scores(scores: Scores, path: Path) -> None:
    """One row per model, decoder, layer, shots, draw and example."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parts = []
    for model, said in scores.models.items():
        for one in said:
            kept = np.flatnonzero(one.predicted >= 0)
            parts.append(
                pa.table(
                    {
                        "model": _repeated(model, len(kept)),
                        "decoder": _repeated(one.decoder, len(kept)),
                        "layer": _repeated(one.layer, len(kept)),
                        "shots": np.full(len(kept), one.shots, dtype=np.int16),
                        "draw": np.full(len(kept), one.draw, dtype=np.int16),
                        "example": scores.rows[kept],
                        "label": scores.labels[kept],
                        "predicted": one.predicted[kept],
                    }
                )
            )
    table = pa.concat_tables(parts).unify_dictionaries()
    described = {"classes": "\n".join(scores.classes), "forget": ",".join(map(str, scores.forget_classes))}
    parquet.write_table(table.replace_schema_metadata(described), path, compression="zstd")


def read_scores(path: Path) -> Scores:
    """The table that `write_scores` wrote."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    rows, first = np.unique(table["example"].to_numpy(), return_index=True)
    labels = table["label"].to_numpy()[first]
    models: dict[str, list[Decoded]] = {}
    keys = [table[name].to_numpy(zero_copy_only=False) for name in ("model", "decoder", "layer", "shots", "draw")]
    change = np.ones(table.num_rows, dtype=bool)
    change[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(change)
    example, predicted = table["example"].to_numpy(), table["predicted"].to_numpy()
    for start, stop in zip(starts, [*starts[1:], table.num_rows], strict=True):
        said = np.full(len(rows), -1, dtype=np.int16)
        said[np.searchsorted(rows, example[start:stop])] = predicted[start:stop]
        model, decoder, layer, shots, draw = (key[start] for key in keys)
        models.setdefault(str(model), []).append(Decoded(str(decoder), str(layer), int(shots), int(draw), said))
    forget = tuple(int(number) for number in metadata["forget"].split(","))
    return Scores(labels, rows, forget, tuple(metadata["classes"].split("\n")), models)


def _repeated(text: str, count: int):
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int16), pa.array([text]))
