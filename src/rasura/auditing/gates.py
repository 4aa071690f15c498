"""Preconditions of every verdict: where one fails, nothing is claimed."""

from dataclasses import dataclass

from rasura.auditing.comparison import accuracy
from rasura.auditing.scores import ORIGINAL, Scores

LARGEST_REFERENCE_ACCURACY = 0.01
LARGEST_RETAIN_GAP = 0.02
LEAST_ORIGINAL_ACCURACY = 0.3


@dataclass(frozen=True)
class Gate:
    """A precondition of every verdict: what was found, what is allowed, and what to do about it."""

    name: str
    passed: bool
    found: str
    allowed: str
    remedy: str


def score_gates(scores: Scores) -> list[Gate]:
    """What the scores themselves say of the original and the references."""
    original = accuracy(scores, ORIGINAL, scores.forget).point
    gates = [
        Gate(
            "the original knows the class",
            original >= LEAST_ORIGINAL_ACCURACY,
            f"forget accuracy {original:.1%}",
            f"at least {LEAST_ORIGINAL_ACCURACY:.0%}",
            "give the model that was trained with the class as the original",
        )
    ]
    kept = accuracy(scores, ORIGINAL, ~scores.forget).point
    for name in scores.references:
        forget = accuracy(scores, name, scores.forget).point
        retain = accuracy(scores, name, ~scores.forget).point
        gates.append(
            Gate(
                f"{name} never saw the class",
                forget < LARGEST_REFERENCE_ACCURACY,
                f"forget accuracy {forget:.1%}",
                f"below {LARGEST_REFERENCE_ACCURACY:.0%}",
                "retrain it without the class",
            )
        )
        gates.append(
            Gate(
                f"{name} is as good as the original",
                retain >= kept - LARGEST_RETAIN_GAP,
                f"retain accuracy {retain:.1%}, original {kept:.1%}",
                f"at most {100 * LARGEST_RETAIN_GAP:.0f} points below the original",
                "train it by the original's recipe",
            )
        )
    return gates
