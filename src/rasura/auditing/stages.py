"""What a model's stages are called, so that the same stage of two models is compared with itself."""

import itertools
from collections.abc import Sequence

from rasura.activations import Anatomy


def stage_names(parts: Anatomy, like: Sequence[str] = ()) -> dict[str, str]:
    """What each stage is called: a net inside a wrapper has the same stages as without it.

    Args:
        parts: of the net.
        like: what the original's stages are called. Where none of them is found and the net has as many, they go by
            the original's names in order: renamed modules are not left uncompared.
    """
    prefix = _shared_prefix(parts.operators)
    own = {stage: stage.removeprefix(prefix) for stage in parts.stages}
    wrappers = {name.removesuffix(one) for name in own.values() for one in like if name.endswith(f".{one}")}
    if not wrappers:
        unknown = not set(own.values()) & set(like) and len(own) == len(like)
        return dict(zip(own, like, strict=True)) if unknown else own
    best = max(sorted(wrappers | {""}), key=lambda wrapper: sum(n.removeprefix(wrapper) in like for n in own.values()))
    return {stage: name.removeprefix(best) for stage, name in own.items()}


def _shared_prefix(names: Sequence[str]) -> str:
    """The modules that all names lie in, with the dot.

    >>> _shared_prefix(["net.body.0", "net.head"]), _shared_prefix(["body.0", "head"]), _shared_prefix(["head"])
    ('net.', '', '')
    """
    homes = [name.split(".")[:-1] for name in names]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*homes, strict=False))
    return "".join(f"{parts[0]}." for parts in shared)
