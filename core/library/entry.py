"""One line of a manifest: what became of one adapter file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..reports.envelope import Identity

SCHEMA = 1  # raise it when a field changes its meaning

# transferred: a file was written. refused: the bases do not match where the LoRA acts. unusable: the file is damaged,
# of an unknown kind, or made for another base; nothing can be done until it changes. failed: the disk, the memory or a
# bug was in the way; the next run tries again. planned: a dry run would transfer it; never in a manifest.
Outcome = Literal["transferred", "refused", "unusable", "failed", "planned"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# What differs between two runs with equal results.
TIMES = ("seconds", "finished")


@dataclass(frozen=True)
class FileMark:
    """A file as it was read: its size in bytes, the time of its last change in nanoseconds, a hash of its content.

    fingerprint: None if it could not be read.
    """

    size: int
    modified: int
    fingerprint: str | None = None


@dataclass(frozen=True)
class Output:
    """A written file: its path below the manifest's folder, its size in bytes, its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """What became of one adapter file.

    lora: the file's path below the folder that was searched, with `/`. reason: why there is no output; empty if there
    is. verdict: works, risky or refuse, with its sentences in `reasons`; `risks` says why it is not works. counts,
    lost: as in reports.transfer.Report. drift_against_lora: as in verdict.PairFigures. strip: for each part of the
    model, from the first layer to the last, the share of its layers that were transferred: a digit 0 to 9, or `-` if
    the LoRA has none there. finished: seconds since 1970.
    """

    lora: str
    file: FileMark
    source: Identity
    target: Identity
    settings: Mapping[str, Any]
    outcome: Outcome
    reason: str = ""
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    lost: float | None = None
    drift_against_lora: float | None = None
    strip: str = ""
    notes: tuple[str, ...] = ()
    output: Output | None = None
    seconds: float = 0.0
    finished: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Entry":
        """The entry of a line. ValueError if the line is not one, or of another schema."""
        if values.get("schema") != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA}, found {values.get('schema')!r}")
        fields: dict[str, Any] = {name: value for name, value in values.items() if name != "schema"}
        output = fields.get("output")
        try:
            fields |= {
                "file": FileMark(**fields["file"]),
                "source": Identity(**fields["source"]),
                "target": Identity(**fields["target"]),
                "reasons": tuple(fields.get("reasons", ())),
                "risks": tuple(fields.get("risks", ())),
                "notes": tuple(fields.get("notes", ())),
                "output": None if output is None else Output(**output),
            }
            entry = Entry(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"fields are missing or unknown ({error})") from error
        if entry.outcome not in OUTCOMES:
            raise ValueError(f"expected an outcome of {', '.join(OUTCOMES)}, found {entry.outcome!r}")
        return entry


def same_result(first: Entry | None, second: Entry) -> bool:
    """Whether two lines say the same, apart from times."""
    if first is None:
        return False
    values, others = first.as_json(), second.as_json()
    return {**values, **dict.fromkeys(TIMES)} == {**others, **dict.fromkeys(TIMES)}
