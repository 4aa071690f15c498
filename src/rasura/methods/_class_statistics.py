"""What closed-form edits know of a linear map's inputs: means of classes, scatter of both sides, readability."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rasura.activations import Moments
from rasura.errors import InputError
from rasura.methods._depth import discriminant, separability, solved
from rasura.methods._distributed import merged, total

SHRINKAGE = 0.1
"""Added to the covariance within classes before it is inverted to tell them apart, as a share of its mean variance."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What an edit needs, in float64.

    Attributes:
        prototypes: mean of each class that is there, `[K, d]`.
        forget: places of the forgotten classes among them, `[F]`.
        going: moments of the forgotten examples, with scatter.
        retain: moments of the retained examples, with scatter.
        separability: of forgotten from retained examples, 0..1, by a linear probe on examples left out of the rest.
        routing: which retained class a reader that knows no other names for the examples of each forgotten class:
            shares `[F, K - F]`, rows sum to 1.
        carried: mean of each class, `[K, out]`, of what a shortcut adds to the map's output; None if nothing is known.
        own: covariance `[d, d]` of forgotten examples around the means of their classes; None where single examples are
            not read.
        named: covariance `[d, d]` of the retained prototypes that these examples are named as (rows) with the examples
            themselves, both around the means of the classes.
    """

    prototypes: Tensor
    forget: Tensor
    going: Moments
    retain: Moments
    separability: float
    routing: Tensor
    carried: Tensor | None = None
    own: Tensor | None = None
    named: Tensor | None = None

    @property
    def everything(self) -> Moments:
        """Moments of all examples, with scatter."""
        found = Moments(len(self.retain.mean), scatter=True)
        found.merge(self.going)
        found.merge(self.retain)
        return found

    def gaps(self, means: Tensor) -> Tensor:
        """Of means `[K, d]`, how far each forgotten one lies from the routed mixture of the retained: `[F, d]`."""
        staying = torch.ones(len(means), dtype=torch.bool)
        staying[self.forget] = False
        return means[self.forget] - self.routing @ means[staying]

    def channels(self, chosen: slice) -> "Summary":
        """The same for some of the features."""
        going, retain = (_some(moments, chosen) for moments in (self.going, self.retain))
        own, named = (None if one is None else one[chosen, chosen] for one in (self.own, self.named))
        return replace(self, prototypes=self.prototypes[:, chosen], going=going, retain=retain, own=own, named=named)


class ClassMeans:
    """Streamed means per class of vectors `[n, d]`; classes that are `gone` have no examples and no place."""

    def __init__(self, classes: int, gone: tuple[int, ...] = ()):
        self.present = torch.tensor([number for number in range(classes) if number not in gone])
        self.places = torch.zeros(classes, dtype=torch.int64)
        self.places[self.present] = torch.arange(len(self.present))
        self.counts = self.sums = torch.empty(0)

    def fit(self, vectors: Tensor, labels: Tensor) -> None:
        """Take in vectors."""
        vectors, labels = vectors.double(), self.places[labels].to(vectors.device)
        if not len(self.sums):
            self.counts = vectors.new_zeros(len(self.present))
            self.sums = vectors.new_zeros(len(self.present), vectors.shape[1])
        self.counts.index_add_(0, labels, torch.ones_like(vectors[:, 0]))
        self.sums.index_add_(0, labels, vectors)

    def settle(self) -> Tensor:
        """The means `[K, d]` over all processes.

        Raises:
            InputError: a class has no example.
        """
        self.counts, self.sums = total(self.counts), total(self.sums)
        _check_all_there(self.counts, self.present)
        return self.sums / self.counts[:, None]


class ClassStatistics:
    """Streamed statistics of vectors `[n, d]` with labels over disjoint examples: `fit`, `settle`, `score`, `summary`.

    All of it adds up over batches and over processes, which settle together. Classes that are `gone` have no examples
    and no place among the prototypes. Without `routes` every retained class gets the same share of the routing; with
    `singles` (and `routes`) the summary also says how single forgotten examples differ and what they are named as.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        forget: Tensor,
        gone: tuple[int, ...] = (),
        routes: bool = True,
        singles: bool = False,
    ):
        self.name, self.routes, self.singles, self.means = name, routes, singles, ClassMeans(classes, gone)
        self.is_forgotten = torch.isin(self.means.present, forget)
        self.sides: list[Moments] = []
        self.reader: _Reader | None = None

    def fit(self, vectors: Tensor, labels: Tensor) -> None:
        """Take in vectors that give means and scatter."""
        vectors = self._checked(vectors)
        if not self.sides:
            self.sides = [Moments(vectors.shape[1], True, vectors.device) for _ in range(2)]
        going = self.is_forgotten[self.means.places[labels]].to(vectors.device)
        for side, chosen in zip(self.sides, (going, ~going), strict=True):
            side.update(vectors[chosen])
        self.means.fit(vectors, labels)

    def settle(self) -> None:
        """Make linear readers of what all processes have fitted.

        Raises:
            InputError: a class has no example.
        """
        prototypes = self.means.settle()
        self.sides = [merged(one) for one in self.sides]
        within = self._within(prototypes) if self.routes else None
        self.reader = _Reader(prototypes, within, self.sides, self.is_forgotten, self.singles)

    @property
    def settled(self) -> bool:
        """Whether fitting is over."""
        return self.reader is not None

    def score(self, vectors: Tensor, labels: Tensor) -> None:
        """Take in other vectors, of which the readers say what they are."""
        assert self.reader is not None
        self.reader.score(self._checked(vectors), self.means.places[labels])

    def _checked(self, vectors: Tensor) -> Tensor:
        vectors = vectors.double()
        if not vectors.sum().isfinite():  # what is NaN or infinite once stays so
            raise InputError(f"model: NaN or infinite inputs of {self.name}; allowed: finite activations")
        return vectors

    def _within(self, prototypes: Tensor) -> Tensor:
        """Covariance of the retained examples around their class means."""
        retain = self.sides[1]
        assert retain.scatter is not None
        counts = self.means.counts.masked_fill(self.is_forgotten.to(retain.mean.device), 0)
        away = prototypes - retain.mean
        return (retain.scatter - away.T @ (away * counts[:, None])) / retain.count

    def summary(self) -> Summary:
        """All that was found, over all processes, on the CPU."""
        reader = self.reader
        assert reader is not None
        going, retain = (_on_cpu(side) for side in self.sides)
        routing, forget = _shares(total(reader.routed)).cpu(), self.is_forgotten.nonzero()[:, 0]
        own, named = reader.of_singles() if self.singles and self.routes else (None, None)
        readable = separability(total(reader.confusion))
        return Summary(reader.prototypes.cpu(), forget, going, retain, readable, routing, own=own, named=named)


class _Reader:
    """Two linear probes, and what they said of examples that did not fit them.

    One tells forgotten from retained examples; the other names the retained class that an example is most like (linear
    discriminant analysis with equal priors).
    """

    def __init__(
        self, prototypes: Tensor, within: Tensor | None, sides: list[Moments], is_forgotten: Tensor, singles: bool
    ):
        self.prototypes, self.is_forgotten = prototypes, is_forgotten
        self.direction, self.threshold = discriminant(*sides)
        staying = prototypes[~is_forgotten]
        self.slopes = None if within is None else solved(shrunk(within, SHRINKAGE), staying.T)
        self.confusion = torch.zeros(2, 2, dtype=torch.float64, device=prototypes.device)
        self.routed = torch.zeros(int(is_forgotten.sum()), len(staying), dtype=torch.float64, device=prototypes.device)
        self.singles, features = singles, prototypes.shape[1] if singles else 0
        self.sums = self.routed.new_zeros(len(self.routed), features)
        self.squares, self.products = self.routed.new_zeros(2, features, features)

    def score(self, vectors: Tensor, labels: Tensor) -> None:
        said = (vectors @ self.direction > self.threshold).long()
        going = self.is_forgotten[labels].to(vectors.device)
        for truth in (0, 1):
            self.confusion[truth] += torch.bincount(said[going == bool(truth)], minlength=2)
        if self.slopes is None:
            return
        offsets = -(self.prototypes[~self.is_forgotten] * self.slopes.T).sum(1) / 2
        forgotten = vectors[going]
        answers = (forgotten @ self.slopes + offsets).argmax(1)
        place = (self.is_forgotten.cumsum(0) - 1)[labels].to(vectors.device)[going]
        self.routed.index_put_((place, answers), torch.ones_like(answers, dtype=torch.float64), accumulate=True)
        if self.singles:
            self.sums.index_add_(0, place, forgotten)
            self.squares += forgotten.T @ forgotten
            self.products += self.prototypes[~self.is_forgotten][answers].T @ forgotten

    def of_singles(self) -> tuple[Tensor, Tensor]:
        """`Summary.own` and `Summary.named`, over all processes, on the CPU."""
        parts = self.routed, self.sums, self.squares, self.products
        counts, sums, squares, products = (total(one).cpu() for one in parts)
        sizes = counts.sum(1, keepdim=True).clamp(min=1)
        targets = counts / sizes @ self.prototypes[~self.is_forgotten].cpu()
        own, named = squares - (sums / sizes).T @ sums, products - targets.T @ sums
        return own / counts.sum().clamp(min=1), named / counts.sum().clamp(min=1)


def shrunk(covariance: Tensor, share: float) -> Tensor:
    """The covariance with a share of its mean variance added to the diagonal."""
    ridge = share * covariance.diagonal().mean() + 1e-12
    return covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)


def _check_all_there(counts: Tensor, present: Tensor) -> None:
    missing = present[(counts == 0).cpu()].tolist()
    if missing:
        raise InputError(
            f"data: class {missing[0]} has no calibration example; allowed: at least 1 of every class, or a larger "
            "calibration"
        )


def _shares(routed: Tensor) -> Tensor:
    """Rows that sum to 1; a class that was not scored goes to all retained ones alike."""
    sums = routed.sum(1, keepdim=True)
    return torch.where(sums > 0, routed / sums.clamp(min=1e-300), 1 / routed.shape[1])


def _on_cpu(moments: Moments) -> Moments:
    found = Moments(len(moments.mean))
    found.count, found.mean = moments.count, moments.mean.cpu()
    found.scatter = None if moments.scatter is None else moments.scatter.cpu()
    return found


def _some(moments: Moments, chosen: slice) -> Moments:
    found = Moments(0)
    assert moments.scatter is not None
    found.count, found.mean, found.scatter = moments.count, moments.mean[chosen], moments.scatter[chosen, chosen]
    return found
