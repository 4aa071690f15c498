"""Whether a table of scores, as it was read from a file, holds all that a verdict rests on."""

from collections.abc import Iterator

import numpy as np

from rasura.auditing.decoded import HEAD_INPUT, LINEAR, OUTPUT, RUNNER_UP
from rasura.auditing.scores import MODEL, ORIGINAL, Scores
from rasura.errors import InputError

ANSWERS = ((OUTPUT, "output"), (RUNNER_UP, "output"), (LINEAR, HEAD_INPUT))
"""What every audit asks every model about every example."""


def check_whole(scores: Scores) -> None:
    """Refuse a table that no audit writes.

    Raises:
        InputError: a model without its own answers to every example, classes that there are not, a request that leaves
            nothing to forget or to keep, or pairs of which a part is missing.
    """
    wrong = next(_wrong(scores), None)
    if wrong is not None:
        raise InputError(f"scores: {wrong}; allowed: the table as rasura wrote it")


def _wrong(scores: Scores) -> Iterator[str]:
    classes = np.arange(len(scores.classes))
    if not np.isin(scores.labels, classes).all():
        yield "an example of a class that there is not"
    if scores.forget_classes and (not scores.forget.any() or scores.forget.all()):
        yield "no example to forget, or none to keep"
    for model in dict.fromkeys((MODEL, ORIGINAL, *scores.models)):
        said = scores.models.get(model, [])
        for decoder, layer in ANSWERS:
            answers = [one for one in said if (one.decoder, one.layer) == (decoder, layer)]
            if len(answers) != 1 or not np.isin(answers[0].predicted, classes).all():
                yield f"{model!r} has no single answer to each example ({decoder} at {layer})"
        if not all(np.isin(one.predicted, [-1, *classes]).all() for one in said):
            yield f"an answer of {model!r} that is no class"
    for model, members in scores.members.items():
        shapes = {members.train_rows.shape, members.held_out_rows.shape, members.labels.shape}
        if any({one.shape} != {(2, *shape) for shape in shapes} for one in members.values.values()):
            yield f"pairs of {model!r} of which a part is missing"
