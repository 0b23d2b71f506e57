"""What a node says to its user: short sentences, each with a tone that the page shows as a colour."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "warn", "bad", "plain", "next"]


@dataclass(frozen=True)
class Line:
    """One short sentence. tone: good (it worked), warn (look at this), bad (it failed), plain, or next (what to do
    next). text: plain text, never markup; it may quote a file."""

    tone: Tone
    text: str

    def as_json(self) -> dict[str, str]:
        return {"tone": self.tone, "text": self.text}
