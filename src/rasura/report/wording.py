"""The verdict in plain words: what was asked, what was found, where it hides, what this does not show."""

from collections.abc import Iterator, Sequence
from typing import Any

from rasura.auditing import MODEL, VERDICTS
from rasura.report.numbers import percent
from rasura.report.scores import FORGET, RETAIN, SAMPLES, Row, reference_roles

NEXT = {
    "INVALID": "Repair what the failed gate names, then audit again. Until then nothing is known about this model.",
    "NOT FORGOTTEN": "Do not treat the request as fulfilled: run a method that forgets, or retrain without the class.",
    "DAMAGED": "Do not put it to use: forget with a milder setting, or retrain without the class.",
    "MASKED": "Do not treat the request as fulfilled where others can get at the weights: use a method that changes "
    "the features, or retrain without the class.",
    "RESIDUAL": "The answers are silent, the inside is not: use a stronger method, or retrain without the class.",
    "OVER-ERASED": "What was removed can be told from how the model now behaves: forget with a milder setting, or "
    "retrain without the class.",
    "INCONCLUSIVE": "Neither “erased” nor “kept” is shown. Give more retrained models (five are advised) or more "
    "held-out examples, then audit again.",
    "ERASED": "Within the stated margin it is as a model that never saw the class. Keep this page and verdict.json "
    "with the model as the record.",
}
"""What to do on each verdict."""

_SAMPLE_MEANING = {
    "NOT FORGOTTEN": "the examples can be told from unseen ones as in the original",
    "MASKED": "the output is silent, but a cheap change shows that the examples were trained on",
    "RESIDUAL": "the examples can be told from unseen ones better than in retrained models",
    "OVER-ERASED": "the examples are treated unlike any retrained model would treat them",
}
_SAMPLE_NEXT = {
    "MASKED": "Do not treat the request as fulfilled where others can get at the weights: retrain without them.",
    "RESIDUAL": "The examples can still be told: use a stronger method, or retrain without them.",
    "ERASED": "Within the stated margin it is as a model that was not trained on them. Keep this page and verdict.json "
    "with the model as the record.",
}
_BEHIND = {
    "unwrapped": "In code after the last layer. The net itself still names it",
    "bias": "Behind the biases of the last layer",
    "head swap": "Behind the last layer. The features in front of it are still there",
    "batch norm": "Behind the statistics of the normalisation layers",
    "prototype": "In the features. A few labelled examples are enough to find it",
    "few-shot": "In the features. A few labelled examples are enough to find it",
    "8 bits": "In the last digits of the weights",
    "6 bits": "In the last digits of the weights",
    "4 bits": "In the last digits of the weights",
    "linear stitch": "In the features, a linear map away from where they were",
}


def meaning(finding: dict[str, Any]) -> str:
    """The verdict as one sentence."""
    usual = VERDICTS[finding["verdict"]]
    text = _SAMPLE_MEANING.get(finding["verdict"], usual) if _of_samples(finding) else usual
    return f"{text[0].upper()}{text[1:]}."


def advice(finding: dict[str, Any]) -> str:
    """What to do."""
    usual = NEXT[finding["verdict"]]
    if not _of_samples(finding):
        return usual
    return _SAMPLE_NEXT.get(finding["verdict"], usual.replace("the class", "the examples"))


def asked(finding: dict[str, Any]) -> list[str]:
    """What was asked of the model, and how it was put to the test: sentences."""
    named, data = finding["request"]["forget"], finding["data"]
    count = len(reference_roles(finding))
    if _of_samples(finding):
        wish = f"To forget {named} of {data['name']}: to be as a model that was never trained on them."
    elif finding["goal"] == "concept":
        wish = f"To forget {named} of {data['name']}: nobody should be able to read it from the model."
    else:
        wish = f"To forget {named} of {data['name']}: to be as a model that never saw the class."
    history = (finding["models"].get(MODEL) or {}).get("history") or []
    made = [f"Made to forget by {entry.get('method')}." for entry in history[-1:]]
    beside = f"{count} retrained model{'s' * (count > 1)}" if count else "no retrained model"
    return [wish, *made, f"Judged beside the original and {beside}."]


def found(finding: dict[str, Any], rows: dict[str, Row], seen: str) -> list[str]:
    """What the models answer, then the verdict's reason: sentences."""
    if _of_samples(finding):
        own = [f"It gets {_own(rows[FORGET])} of the examples themselves right {_others(rows[FORGET])}."]
    else:
        held_out = f"the held-out {seen} of {finding['request']['forget']}"
        own = [f"Asked directly, it names {_own(rows[FORGET])} of {held_out} {_others(rows[FORGET])}."]
    own.append(f"Of what is to be kept it gets {_own(rows[RETAIN])} right {_others(rows[RETAIN])}.")
    return [*own, finding["reason"]]


def hides(finding: dict[str, Any], rungs: Sequence[Row]) -> list[str]:
    """Where what is left lies, as far as it was found: sentences."""
    others = _others_above(finding)
    more = f"Also above the retrained models: {', '.join(others)}." if others else ""
    return [*_hidden(finding, rungs), *([more] if more and finding["verdict"] != "INVALID" else [])]


def not_shown(finding: dict[str, Any], seen: str) -> list[str]:
    """The limits of what was found, and what was left out: sentences."""
    return [*_limits(finding, seen), *(f"{note[0].upper()}{note[1:]}." for note in finding.get("notes") or ())]


def _limits(finding: dict[str, Any], seen: str) -> list[str]:
    named = finding["request"]["forget"]
    if _of_samples(finding):
        return [
            f"It speaks of these {seen} and of the signals below; a stronger attack may tell more.",
            "It says nothing about each single example, nor about other copies of the model.",
        ]
    members = (
        f"Whether single training {seen} can be told (membership) is measured below, by few signals."
        if finding["membership"]
        else f"It says nothing about single training {seen} (membership)."
    )
    return [
        f"It speaks of held-out {seen} of {named} and of the readers below; a reader that was not tried may see more.",
        members,
        "It says nothing about other copies of the model.",
    ]


def _hidden(finding: dict[str, Any], rungs: Sequence[Row]) -> Iterator[str]:
    verdict, where = finding["verdict"], finding["where"]
    back = next((rung for rung in rungs if rung.flag), None)
    if verdict == "MASKED":
        behind = next((text for rung, text in _BEHIND.items() if where.startswith(rung)), f"At {where}")
        yield f"{behind}."
        if back and back.model:
            yield f"After one change ({back.hint}) it names {_own(back)} {_others(back)}."
    elif verdict == "RESIDUAL":
        yield f"{'In how it treats the examples' if _of_samples(finding) else 'Inside'}: found at {where}."
    else:
        yield {
            "INVALID": "Not known. While a precondition fails, nothing is claimed.",
            "NOT FORGOTTEN": "It does not hide: the answers show it.",
            "DAMAGED": "Not asked any more: the model lost what it was to keep.",
            "OVER-ERASED": f"It does not hide, but the gap shows: found at {where}.",
            "INCONCLUSIVE": "Not settled, neither inside nor outside.",
            "ERASED": "Nowhere that was looked: no answer, change or reader sets it apart from retrained models.",
        }[verdict]


def _others_above(finding: dict[str, Any]) -> list[str]:
    """Places above the margin that are not the one which decided."""
    above = [one for one in finding["comparisons"] if one["above"] and one["decoder"] != "output"]
    return [name for name in dict.fromkeys(map(_place, above)) if name != finding["where"]]


def _place(one: dict[str, Any]) -> str:
    if one["decoder"] == "linear":
        return f"linear probe, {one['layer']}"
    return one["decoder"] if one["layer"] in ("head input", "output") else f"{one['decoder']}, {one['layer']}"


def _own(row: Row) -> str:
    assert row.model is not None
    return percent(row.model["point"])


def _others(row: Row) -> str:
    """The shares of the original and the retrained models, in brackets."""
    known = [f"original {percent(row.original['point'])}"] if row.original else []
    known += [f"retrained {percent(row.references['mean'])}"] if row.references else []
    return f"({', '.join(known)})"


def _of_samples(finding: dict[str, Any]) -> bool:
    return finding["request"]["kind"] == SAMPLES
