"""Does a LoRA that was trained inside its base's singular subspaces (LoRA-X) transfer better than a plain one?

All LoRAs of a style see the same batches in the same loop. Every figure is a share of what a plain LoRA gains that was
trained on the target.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.subspace import RankRule

from ..memory_bases import make_base
from .bases import LORA_X, STYLES, ModelStore, lora_x_name, made_name
from .candidates import Candidate, Transfer, by
from .engine import Factors, TransferJob
from .figures import Figure, Point, difference_between, kept, mean_share, recovered
from .points import Measurement, points
from .tables import table

TARGETS = ("near", "drifted", "far", "turbo", "pruned", "stump")
CHAINS = (("near", "drifted"), ("drifted", "far"), ("near", "turbo"), ("drifted", "pruned"))
METHODS = ("copy", "lora_x", "restore_both")
ABLATED = (*METHODS, "lora_x, then restore_both")  # measured with the first seed
PLAIN = "plain 16"
MAIN = LORA_X[:2]  # measured with every seed, the others with the first


@dataclass(frozen=True)
class Kind:
    """A kind of LoRA on A. name: in the tables. loras: its names in the store, by style. share: of the singular
    directions that lora_x keeps. every_seed: whether every seed is measured, or only the first."""

    name: str
    loras: Mapping[str, str]
    share: float
    every_seed: bool


def _kinds() -> Iterator[Kind]:
    yield Kind(PLAIN, {style: f"{style} 16" for style in STYLES}, 0.5, every_seed=True)
    for rank, share in LORA_X:
        loras = {style: lora_x_name(style, rank, share) for style in STYLES}
        name = loras["line"].removeprefix("line ")
        yield Kind(name, loras, share, every_seed=(rank, share) in MAIN)
    yield Kind("plain, made inside", {style: made_name(style) for style in STYLES}, 0.5, every_seed=True)


KINDS = tuple(_kinds())


def train(store: ModelStore, seeds: Sequence[int]) -> None:
    """Trains what is missing: first what every seed is measured with, then the ablations."""
    for every_seed in (True, False):
        for kind in (kind for kind in KINDS if kind.every_seed == every_seed):
            for seed in seeds if every_seed else seeds[:1]:
                for lora in kind.loras.values():
                    store.lora(lora, "A", seed)
    for seed in seeds:
        for target in TARGETS:
            for style in STYLES:
                store.lora(f"{style} 16", target, seed)


@dataclass(frozen=True)
class Study:
    """The measurements of one family, which are saved in a folder."""

    store: ModelStore
    seeds: Sequence[int]
    folder: Path

    def sections(self) -> list[tuple[str, str]]:
        """Every table with its title."""
        family = self.store.family.name
        main = [kind for kind in KINDS if kind.every_seed]
        each = [
            section
            for style in STYLES
            for section in (
                (f"LoRA-X, share of a plain LoRA trained on the target: {family}, {style}", self._shares(style, main)),
                (f"LoRA-X, kept on the way: {family}, {style}", self._kept(style, main)),
                (f"LoRA-X with its best method against the plain LoRA's: {family}, {style}", self._gains(style, main)),
                (f"LoRA-X, rank and directions, first seed: {family}, {style}", self._shares(style, KINDS, first=True)),
            )
        ]
        return [*each, (f"LoRA-X, chains: {family}", self._chains(main))]

    def points(self, style: str, kind: Kind, target: str, *, first: bool = False) -> list[Point]:
        """The points of every measured seed, by method; empty if nothing is trained."""
        seeds = self.seeds if kind.every_seed and not first else self.seeds[:1]
        measured: list[Point] = []
        for seed in seeds:
            lora = kind.loras[style]
            made = None if kind.name == PLAIN else lora
            measurement = Measurement(self.store, f"{style} 16", target, seed, made=made)
            results = points(measurement, self._candidates(kind.share, target, seed), self.folder, only_losses=True)
            if results:
                measured.append({**results, **{name: results[_at(name, kind.share)] for name in self._methods(seed)}})
        return measured

    def _candidates(self, share: float, target: str, seed: int) -> list[Candidate]:
        ways = {name: way for name, way in _ways(share).items() if name in self._methods(seed)}
        chained = [
            Candidate(f"{_at(name, share)} by way of {via}", partial(self._by_way, ways[name], via, seed))
            for via, end in CHAINS
            if end == target
            for name in METHODS
        ]
        return [*(Candidate(_at(name, share), way) for name, way in ways.items()), *chained]

    def _methods(self, seed: int) -> Sequence[str]:
        return ABLATED if seed == self.seeds[0] else METHODS

    def _by_way(self, way: Transfer, via: str, seed: int, job: TransferJob) -> Factors:
        """Transfers to another base first, and from there to the target."""
        between = make_base(via, self.store.base(via, seed))
        return way(TransferJob(between, job.target, way(TransferJob(job.source, between, job.lora))))

    def _shares(self, style: str, kinds: Sequence[Kind], *, first: bool = False) -> str:
        rows: list[list[str]] = []
        for kind in kinds:
            columns = {target: self.points(style, kind, target, first=first) for target in ("A", *TARGETS)}
            methods = ABLATED if first else METHODS
            for name in methods if any(columns.values()) else ():
                figures = [recovered(column, name) if column else "" for column in columns.values()]
                rows.append([kind.name, name, *map(_mean if first else str, figures)])
        return table(["LoRA", "method", "A itself", *TARGETS], rows)

    def _kept(self, style: str, kinds: Sequence[Kind]) -> str:
        """How much of its gain on A a LoRA keeps on the target: its share there over its share on A."""
        rows: list[list[str]] = []
        for kind in kinds:
            own = self.points(style, kind, "A")
            columns = [self.points(style, kind, target) for target in TARGETS]
            for name in METHODS:
                rows.append([kind.name, name, *(str(kept(column, own, name)) if column else "" for column in columns)])
        return table(["LoRA", "method", *TARGETS], rows)

    def _gains(self, style: str, kinds: Sequence[Kind]) -> str:
        """How much more a kind recovers with its best method than the plain LoRA with its best one."""
        rows: list[list[str]] = []
        plain = next(kind for kind in kinds if kind.name == PLAIN)
        for kind in kinds:
            if kind is plain:
                continue
            row = [kind.name]
            for target in TARGETS:
                inside, reference_points = self.points(style, kind, target), self.points(style, plain, target)
                if inside and reference_points:
                    best, reference = _best(inside), _best(reference_points)
                    row.append(f"{difference_between(inside, best, reference_points, reference)} {best}, {reference}")
            rows.append(row)
        return table(["LoRA", *TARGETS], rows)

    def _chains(self, kinds: Sequence[Kind]) -> str:
        rows: list[list[str]] = []
        for style in STYLES:
            for via, target in CHAINS:
                for kind in kinds:
                    measured = self.points(style, kind, target)
                    names = [(_at(name, kind.share), f"{_at(name, kind.share)} by way of {via}") for name in METHODS]
                    figures = [str(recovered(measured, name)) if measured else "" for pair in names for name in pair]
                    rows.append([f"{style}: A, {via}, {target}", kind.name, *figures])
        return table(
            ["chain", "LoRA", *(f"{name}: {route}" for name in METHODS for route in ("directly", "by way"))], rows
        )


def _best(measured: Sequence[Point]) -> str:
    return max(METHODS, key=lambda name: mean_share(measured, name))


def _at(name: str, share: float) -> str:
    """The name under which a method's figures are saved."""
    return f"{name} of {share:g}" if "lora_x" in name else name


def _ways(share: float) -> dict[str, Transfer]:
    """The ways to transfer a LoRA; lora_x keeps this share of the directions."""
    return {
        "copy": by(method="copy"),
        "lora_x": by(RankRule("fraction", share), method="lora_x"),
        "restore_both": by(method="restore_both"),
        "lora_x, then restore_both": partial(_restore_inside, share),
    }


def _restore_inside(share: float, job: TransferJob) -> Factors:
    """restore_both of the part of the LoRA that lies inside the source's own subspaces."""
    inside = by(RankRule("fraction", share), method="lora_x")(TransferJob(job.source, job.source, job.lora))
    return by(method="restore_both")(TransferJob(job.source, job.target, inside))


def _mean(figure: object) -> str:
    return f"{figure.mean:.2f}" if isinstance(figure, Figure) else ""
