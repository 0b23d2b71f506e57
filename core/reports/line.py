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

    @staticmethod
    def sentence(tone: Tone, text: str) -> "Line":
        """A line with a capital letter and a full stop. A first word that is not a plain word, such as a file's name,
        stays as it is."""
        first = text.split(maxsplit=1)[0] if text.strip() else ""
        text = text[:1].upper() + text[1:] if first.strip(",;:").isalpha() else text
        return Line(tone, text if text.endswith((".", "!", "?", "…")) else f"{text}.")

    def as_json(self) -> dict[str, str]:
        return {"tone": self.tone, "text": self.text}
