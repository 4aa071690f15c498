"""What an audit did without: classes with too few examples, parts that cannot be read, stages without a match."""

from collections.abc import Mapping

from rasura.auditing.decoded import LINEAR
from rasura.auditing.probe import LEAST_EXAMPLES
from rasura.auditing.scores import MODEL, ORIGINAL, Scores


def left_out(scores: Scores, unread: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line for each thing, empty if nothing was left out.

    Args:
        scores: of all models.
        unread: per model, its parts that were not read, with the reason.
    """
    return [*_classes(scores), *_parts(unread), *_stages(scores)]


def _classes(scores: Scores) -> list[str]:
    names = [scores.classes[number] for number in scores.too_few]
    if not names:
        return []
    return [
        f"left out: no question is asked of these classes alone, which have fewer than {LEAST_EXAMPLES} held-out "
        f"examples each: {', '.join(names)}"
    ]


def _parts(unread: Mapping[str, Mapping[str, str]]) -> list[str]:
    alike: dict[tuple[str, str], list[str]] = {}
    for role, reasons in unread.items():
        for part, reason in reasons.items():
            alike.setdefault((part, reason), []).append(role)
    return [f"not read: {part} of {', '.join(roles)} ({reason})" for (part, reason), roles in alike.items()]


def _stages(scores: Scores) -> list[str]:
    shared = set.intersection(*(scores.layers(model, LINEAR) for model in scores.models))
    alone = {role: sorted(scores.layers(role, LINEAR) - shared) for role in (MODEL, ORIGINAL)}
    return [
        f"not compared: {', '.join(stages)} of {role}, which not all models have"
        for role, stages in alone.items()
        if stages
    ]
