"""The audit: what a model still shows of a class, measured per model, and judged beside retrained ones."""

from rasura.auditing.comparison import Comparison
from rasura.auditing.gates import Gate
from rasura.auditing.measure import DECODERS, Decoded, Head, measure, read_head
from rasura.auditing.probe import Probe, make_probe
from rasura.auditing.scores import MODEL, ORIGINAL, Scores, read_scores, reference_name, write_scores
from rasura.auditing.selftest import PREFIX as SELF_TEST
from rasura.auditing.selftest import self_test
from rasura.auditing.statistics import Estimate, wilson
from rasura.auditing.verdict import VERDICTS, Judgement, Ruling, judge

__all__ = [
    "DECODERS",
    "MODEL",
    "ORIGINAL",
    "SELF_TEST",
    "VERDICTS",
    "Comparison",
    "Decoded",
    "Estimate",
    "Gate",
    "Head",
    "Judgement",
    "Probe",
    "Ruling",
    "Scores",
    "judge",
    "make_probe",
    "measure",
    "read_head",
    "read_scores",
    "reference_name",
    "self_test",
    "wilson",
    "write_scores",
]
