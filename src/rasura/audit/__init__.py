"""The audit: what a model still shows of a class, measured per model, and judged beside retrained ones."""

from rasura.audit.comparison import Comparison
from rasura.audit.measure import DECODERS, Decoded, Head, measure, read_head
from rasura.audit.probe import Probe, make_probe
from rasura.audit.scores import MODEL, ORIGINAL, Scores, read_scores, reference_name, write_scores
from rasura.audit.statistics import Estimate, wilson
from rasura.audit.verdict import VERDICTS, Gate, Judgement, Ruling, judge

__all__ = [
    "DECODERS",
    "MODEL",
    "ORIGINAL",
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
    "wilson",
    "write_scores",
]
