"""The audit: what a model still shows of a class, measured per model, and judged beside retrained ones."""

from rasura.auditing.case import GOALS, Goal, Ruling
from rasura.auditing.comparison import Comparison
from rasura.auditing.consistency import consistency_gate
from rasura.auditing.decoded import DECODERS, Anchor, Decoded, Head
from rasura.auditing.gates import Gate
from rasura.auditing.inside import Inside, compared_insides, drawn_rows, heads, shared_layers
from rasura.auditing.left_out import left_out
from rasura.auditing.measure import Measured, measure
from rasura.auditing.members import Members, roc_curves
from rasura.auditing.model_gates import identity_gates, preprocessing_gate, record_gates
from rasura.auditing.on_request import ON_REQUEST, Asked, Shadows, comes_back, look_on_request
from rasura.auditing.probe import Probe, make_probe
from rasura.auditing.reading import read_anchor, read_head
from rasura.auditing.scores import (
    MEMBERSHIP,
    MODEL,
    ORIGINAL,
    Scores,
    read_scores,
    reference_name,
    write_scores,
)
from rasura.auditing.selftest import PREFIX as SELF_TEST
from rasura.auditing.selftest import self_test
from rasura.auditing.statistics import Estimate, wilson
from rasura.auditing.untrained import measure_untrained
from rasura.auditing.verdict import VERDICTS, Judgement, judge
from rasura.auditing.whole import check_whole

__all__ = [
    "DECODERS",
    "GOALS",
    "MEMBERSHIP",
    "MODEL",
    "ON_REQUEST",
    "ORIGINAL",
    "SELF_TEST",
    "VERDICTS",
    "Anchor",
    "Asked",
    "Comparison",
    "Decoded",
    "Estimate",
    "Gate",
    "Goal",
    "Head",
    "Inside",
    "Judgement",
    "Measured",
    "Members",
    "Probe",
    "Ruling",
    "Scores",
    "Shadows",
    "check_whole",
    "comes_back",
    "compared_insides",
    "consistency_gate",
    "drawn_rows",
    "heads",
    "identity_gates",
    "judge",
    "left_out",
    "look_on_request",
    "make_probe",
    "measure",
    "measure_untrained",
    "preprocessing_gate",
    "read_anchor",
    "read_head",
    "read_scores",
    "record_gates",
    "reference_name",
    "roc_curves",
    "self_test",
    "shared_layers",
    "wilson",
    "write_scores",
]
