"""The fields that all reports share: source, target, adapter, settings, and the version of the JSON schema."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..version import VERSION

MISSING = "not on this disk"  # the fingerprint of a source base that the user does not have
SCHEMA = 1  # raise it when a field changes its meaning


class Named(Protocol):
    """Anything with a name and a content hash: a base, an adapter."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Identity:
    """A file or model in a run: its name and a hash of its content."""

    name: str
    fingerprint: str

    @staticmethod
    def of(named: Named) -> "Identity":
        return Identity(named.name, named.fingerprint)


class Reported(Protocol):
    """The fields that every report has. notes: sentences that explain the figures."""

    @property
    def source(self) -> Identity: ...
    @property
    def target(self) -> Identity: ...
    @property
    def adapter(self) -> Identity | None: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def seconds(self) -> float: ...


def envelope(report: Reported, kind: str, **fields: Any) -> dict[str, Any]:
    """A report as JSON values: the shared fields, and `fields` that only this kind of report has."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "pack": {"name": "lora-transfer", "version": VERSION},
        "source": vars(report.source),
        "target": vars(report.target),
        "adapter": None if report.adapter is None else vars(report.adapter),
        "settings": dict(report.settings),
        "notes": list(report.notes),
        **fields,
        "seconds": report.seconds,
    }


def dumps(values: Mapping[str, Any]) -> str:
    """A report as indented JSON text. ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(values, indent=1, allow_nan=False)
