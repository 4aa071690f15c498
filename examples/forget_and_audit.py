"""Forget a class of handwritten digits and audit the result. Takes about half a minute on two cores.

python examples/forget_and_audit.py
"""

import torch

import rasura
from rasura.models import fresh_model, to_card

data = rasura.load_data("digits")
request = rasura.ForgetClasses(["3"])
recipe = rasura.Recipe(epochs=12)


def trained(seed: int, examples: rasura.Examples) -> torch.nn.Module:
    torch.manual_seed(seed)
    return rasura.fit(fresh_model(to_card("resnet8,width=8", data)), examples, recipe, seed)


without = data.train.take(data.train.labels != 3)
original = trained(0, data.train)
references = [trained(seed, without) for seed in (1, 2, 3)]

for method in (rasura.methods.LogitMask(), rasura.methods.Damp()):
    outcome = rasura.forget(original, data, request, method)
    print(method, *outcome.warnings, sep="\n  ")
    print(" ", rasura.audit(outcome.model, data, request, original=original, references=references))
