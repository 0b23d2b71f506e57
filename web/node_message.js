// The box on a node that shows what the node said: short sentences, each with a tone. Nothing here runs on import.

// The sign stands before a sentence, so that the tone does not depend on seeing colours.
const TONES = {
  good: { sign: "✓", name: "good", colour: "#3fa36b" },
  warn: { sign: "!", name: "warning", colour: "#c98a1b" },
  bad: { sign: "✕", name: "error", colour: "var(--error-text, #d9534f)" },
  next: { sign: "→", name: "next step", colour: "#4a8fd6" },
  plain: { sign: "", name: "", colour: "transparent" },
};

const STYLE = `
.lora-transfer-message { box-sizing: border-box; width: 100%; overflow: auto; contain: layout;
  padding: 4px 2px; border-radius: 6px; background: var(--comfy-input-bg); color: var(--input-text);
  font: 12px/17px system-ui, sans-serif; text-align: left; user-select: text; cursor: text; }
.lora-transfer-message p { display: flex; gap: 6px; margin: 0; padding: 1px 6px; }
.lora-transfer-message .sign { flex: 0 0 10px; font-weight: 700; text-align: center; user-select: none; }
.lora-transfer-message .text { min-width: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
`;

const ROW = 17; // pixels, the line-height above
const LETTER = 6.4; // pixels: the mean width of a letter at this size
const MARGINS = 60; // pixels of a node's width that hold no text
const MOST_HEIGHT = 200; // pixels; a longer message scrolls

/** An empty box for sentences. */
export function createMessageBox() {
  addStyle();
  const box = document.createElement("div");
  box.className = "lora-transfer-message";
  box.setAttribute("role", "status");
  return box;
}

/** Shows sentences [{tone, text}] in the box. A text may quote a file: it is shown as text, never as markup. */
export function drawLines(box, lines) {
  box.replaceChildren(...lines.map(lineElement));
  box.title = lines.map((line) => line.text).join("\n");
}

/** The height in pixels that sentences need on a node of this width. */
export function messageHeight(lines, width) {
  const letters = Math.max(10, Math.floor((width - MARGINS) / LETTER));
  const rows = lines.flatMap((line) => line.text.split("\n")).reduce((sum, text) => sum + countRows(text, letters), 0);
  return Math.min(rows * ROW + lines.length * 2 + 8, MOST_HEIGHT);
}

/** The number of rows of a text that breaks after spaces and hyphens, and inside longer words. */
function countRows(text, letters) {
  let rows = 1;
  let used = 0;
  for (const word of text.split(/(?<=[\s-])/)) {
    if (used && used + word.trimEnd().length > letters) {
      rows += 1;
      used = 0;
    }
    rows += Math.max(0, Math.ceil(word.trimEnd().length / letters) - 1);
    used = (used + word.length) % letters;
  }
  return rows;
}

/** The sentences of a node's output or of a saved workflow, without anything that is not a sentence. */
export function readLines(content) {
  const lines = Array.isArray(content?.lines) ? content.lines : [];
  return lines
    .filter((line) => typeof line?.text === "string" && line.text.trim())
    .map((line) => ({ tone: line.tone in TONES ? line.tone : "plain", text: line.text.trim() }));
}

function lineElement(line) {
  const { sign, name, colour } = TONES[line.tone];
  const mark = document.createElement("span");
  mark.className = "sign";
  mark.textContent = sign;
  mark.style.color = colour;
  if (name) {
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", name);
  }
  const text = document.createElement("span");
  text.className = "text";
  text.textContent = line.text;
  const row = document.createElement("p");
  row.dataset.tone = line.tone;
  row.append(mark, text);
  return row;
}

function addStyle() {
  if (document.getElementById("lora-transfer-message-style")) return;
  const style = document.createElement("style");
  style.id = "lora-transfer-message-style";
  style.textContent = STYLE;
  document.head.append(style);
}
