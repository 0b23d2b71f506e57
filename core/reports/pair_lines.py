"""What a comparison and a transfer say to the user: did it work, how well, what was left out and why, which strength to
use, and what to do next."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from ..methods import DEFAULT, method_named
from ..pair_kinds import PairKind
from ..refine.outlook import advise
from ..verdict import RELATED, Verdict, Word, judge_loss
from .envelope import MISSING
from .line import Line, Tone
from .transfer import Report

_TONES: dict[Word, Tone] = {"works": "good", "risky": "warn", "refuse": "bad"}
_MEANINGS: dict[Word, str] = {
    "works": "works: these bases are close enough for a transfer.",
    "risky": "risky: expect only a part of the LoRA's effect.",
    "refuse": "refuse: nothing that is computed from weights alone transfers a LoRA between these bases.",
}
_LOOK = "Next: look at it with Apply LoRA (Transfer), and save it with Save LoRA (Transfer)."
_KEEP = "Next: look at the picture. To save the LoRA as a file, connect lora_model to Load LoRA (Transfer)."
_MOST_REASONS = 3  # lines about what was left out; the report has all of it


def comparison_lines(report: Report, kind: PairKind | None) -> Iterator[Line]:
    """The lines of a comparison. kind: of the pair; None without a verdict."""
    yield from _opening(report)
    if report.is_between_equal_bases():
        return
    if kind is not None and report.word != "refuse":
        yield _expect(kind, DEFAULT.name)
        yield from _left_out(report)
    yield Line.sentence("plain", report.counted())
    if report.word is not None and report.word != "refuse":
        yield Line("next", "Next: connect similarity to Project LoRA.")
    if report.refine is not None:
        yield Line.sentence("plain" if report.word == "works" else "next", report.refine.sentence())


def transfer_lines(
    report: Report, kind: PairKind | None, notes: Iterable[str], *, applied: bool = False
) -> Iterator[Line]:
    """The lines of a transfer. kind: of the pair; None without a verdict. notes: what the user should see at once.
    applied: whether the LoRA is on the model already."""
    counts = report.counts()
    layers = counts["transferred"] + counts["copied"]
    number = "all" if counts["copied"] == layers else counts["copied"]
    copied = f", {number} of them as a plain copy" if counts["copied"] else ""
    yield from _opening(report, f"{layers} of {layers + counts['skipped']} layers transferred{copied}")
    if report.is_between_equal_bases():
        return
    if kind is not None and report.word != "refuse":
        yield _expect(kind, str(report.settings["method"]))
    yield from _left_out(report)
    for note in notes:
        yield Line.sentence("plain" if report.word is not None else "warn", note)
    yield _strength(report, kind)
    yield from _next_steps(report, kind, applied=applied)


def _opening(report: Report, done: str | None = None) -> Iterator[Line]:
    if report.is_between_equal_bases():
        where = "" if report.adapter is None else " in every layer that the LoRA changes"
        yield Line("warn", f"The two bases are the same{where}: no transfer is needed; load the LoRA as it is.")
    else:
        if done is not None:
            yield Line.sentence("good" if report.word == "works" else "warn", done)
        if report.word is not None:
            yield Line(_TONES[report.word], _MEANINGS[report.word])
    for doubt in report.doubts:
        yield Line.sentence("warn", doubt)
    if report.verdict is not None and not report.is_between_equal_bases():
        yield from _reasons(report.verdict, every=done is None)


def _reasons(verdict: Verdict, *, every: bool) -> Iterator[Line]:
    """The reasons of a verdict, each in the tone of the word that it calls for. every: False leaves out those that
    speak for the transfer."""
    severities = verdict.severities or (verdict.word,) * len(verdict.reasons)
    for reason, word in zip(verdict.reasons, severities, strict=True):
        if every or word != "works":
            yield Line.sentence("plain" if word == "works" else _TONES[word], reason)


def _expect(kind: PairKind, method: str) -> Line:
    """How much of the LoRA's effect to expect, as it was measured on such pairs."""
    if not kind.transferred:
        text = f"How well such a transfer works was not measured: {kind.target}."
        return Line("plain", f"{text} Check Transfer measures it on your pair.")
    gain = kind.transferred.get(method)
    if gain is not None:
        return Line(
            "plain",
            f"On {kind.target}, {method} brought {gain.strong:.0%} of what a LoRA trained on the target brings for a "
            f"strong style, and {gain.subtle:.0%} for a subtle one (measured on small models).",
        )
    cuts = "" if method_named(method).keeps_whole_delta else ", because it cuts a part of the LoRA away by design"
    return Line("plain", f"{method} brought no more than {DEFAULT.name} in our measurements{cuts}.")


def _left_out(report: Report) -> Iterator[Line]:
    """What is lost, and the most common reasons."""
    if report.lost is not None and report.lost >= 0.005:  # less is 0 % in writing
        tone: Tone = "plain" if judge_loss(report.lost) == "works" else "warn"
        yield Line(tone, f"{report.lost:.0%} of the LoRA's change is lost.")
    reasons = [
        *_by_reason(((skipped.layer, skipped.reason) for skipped in report.skipped), "layer"),
        *_by_reason(report.unread.items(), "key"),
    ]
    for _, text in sorted(reasons, key=lambda reason: -reason[0])[:_MOST_REASONS]:
        yield Line.sentence("plain", text)
    if (more := len(reasons) - _MOST_REASONS) > 0:
        yield Line("plain", f"{more} more reason{'s' if more > 1 else ''} for what is left out: see the report.")


def _by_reason(left_out: Iterable[tuple[str, str]], unit: str) -> Iterator[tuple[int, str]]:
    """(count, sentence) for each reason. Reasons that differ only in their figures count as the same."""
    listed = [(name, reason, re.sub(r"-?\d+(?:\.\d+)?", "0", reason)) for name, reason in left_out]
    for alike, count in Counter(alike for _, _, alike in listed).items():
        name, reason, _ = next(entry for entry in listed if entry[2] == alike)
        first = f" (first: {name})" if count > 1 else f" ({name})"
        yield count, f"{count} {unit}{'s' if count > 1 else ''} left out{first}: {reason}"


def _strength(report: Report, kind: PairKind | None) -> Line:
    gain = float(report.settings["gain"])
    inside = "" if gain == 1 else f" The gain of {gain:g} is in it already."
    if kind is None or kind.strength is None or report.settings["method"] != DEFAULT.name:
        return Line("plain", f"Begin with strength 1: other strengths were not measured on such a transfer.{inside}")
    subtle = kind.strength.subtle
    text = "Use it at strength 1: that measured best or nearly best on such a target"
    return Line("plain", f"{text}.{inside}" if subtle == 1 else f"{text}; for a subtle style, {subtle:g}.{inside}")


def _next_steps(report: Report, kind: PairKind | None, *, applied: bool) -> Iterator[Line]:
    below = report.below_threshold()
    if below and _is_related(report) and report.settings["below_threshold"] == "skip":
        least = math.floor(100 * min(below)) / 100
        yield Line(
            "next",
            f"Next: set threshold to {max(0.0, least):g}, which transfers the {len(below)} layers below "
            f"{report.settings['threshold']:g} too: these bases are related.",
        )
    if report.word == "works":
        yield Line("next", _KEEP if applied else _LOOK)
        return
    if report.source.fingerprint == MISSING:
        yield Line(
            "next",
            "Next: compare a picture with the LoRA and one without. With the LoRA's own base on this disk, the "
            "transfer can be checked and measured.",
        )
        return
    yield Line("next", "Next: measure with Check Transfer how much of the LoRA comes through.")
    if kind is not None and report.word is not None:
        yield Line.sentence("next", f"Refine LoRA {advise(kind, report.word)}")


def _is_related(report: Report) -> bool:
    cosine = None if report.verdict is None else report.verdict.figures.weight_cosine
    return cosine is not None and cosine >= RELATED
