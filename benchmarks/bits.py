"""Whether two versions of the package give the same bits: one JSON line per result, to be compared with `diff`.

    OMP_NUM_THREADS=1 python benchmarks/bits.py [--audits] > before.jsonl

Every method forgets one class, two classes and 2 % of the examples of digits from two nets; each line holds the SHA-256
of the weights that it left, or what it refused. With --audits also what an audit of some of them found, without times.
The same processor and number of threads are needed: other ones round otherwise.
"""

import argparse
import hashlib
import json
from typing import Any

import torch
from torch import nn

import rasura
from rasura.data import Data, Request, resolve
from rasura.methods import method_class, names
from rasura.models import fresh_model, to_card
from rasura.progress import silent
from rasura.training import Recipe, fit

NETS = {"resnet8,width=8": Recipe(epochs=20), "vit,width=32,depth=2": Recipe(epochs=20)}
AUDITED = ("damp", "finetune", "logit-mask")
TIMES = ("seconds", "seconds_per_block")


def weights(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trained(net: str, data: Data, seed: int, request: Request | None = None) -> nn.Module:
    """A net trained on the data, without what the request names."""
    train = data.train if request is None else resolve(request, data).retain
    torch.manual_seed(seed)
    training = {"recipe": vars(NETS[net]), "seed": seed, "without": []}
    model = fresh_model(to_card(net, data, training=training))
    fit(model, train, NETS[net], seed, progress=silent)
    return model.eval()


def found(model: nn.Module, data: Data, request: Request, original: nn.Module, references: list[nn.Module]) -> Any:
    """What an audit found, as a hash of everything but the times."""
    content = rasura.audit(model, data, request, original, references, progress=silent).content
    kept = {key: value for key, value in content.items() if key not in TIMES}
    return {"verdict": content["verdict"], "parts": {key: digest_of(value) for key, value in kept.items()}}


def digest_of(value: Any) -> str:
    """The first digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--audits", action="store_true", help="audit some results, too")
    parser.add_argument("--methods", nargs="*", default=names())
    options = parser.parse_args()
    data = rasura.load_data("digits")
    requests = {
        "3": rasura.ForgetClasses(["3"]),
        "0, 8": rasura.ForgetClasses(["0", "8"]),
        "2 %": rasura.ForgetSamples(range(0, len(data.train), 50)),
    }
    for net in NETS:
        original = trained(net, data, 0)
        print(json.dumps({"net": net, "original": weights(original)}), flush=True)
        references = {what: [trained(net, data, k, requests[what]) for k in (1, 2, 3)] for what in ("3", "2 %")}
        for name in options.methods:
            for what, request in requests.items():
                row: dict[str, Any] = {"net": net, "method": name, "request": what}
                try:
                    outcome = rasura.forget(original, data, request, method_class(name)(), progress=silent)
                except rasura.InputError as error:
                    print(json.dumps(row | {"refused": str(error)}), flush=True)
                    continue
                row["weights"] = weights(outcome.model)
                if options.audits and name in AUDITED and what in references:
                    row["audit"] = found(outcome.model, data, request, original, references[what])
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
