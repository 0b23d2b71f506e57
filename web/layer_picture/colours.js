// The colours of the interactive picture. core/pictures/drawing.py has the same palette, and a test compares them.

// viridis (S. van der Walt and N. Smith, CC0) in nine even steps: perceptually uniform, and safe for colour-blind people.
export const VIRIDIS = [
  "#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725",
];
export const COPIED = "#ff9f43";

const STEPS = VIRIDIS.map((code) => [1, 3, 5].map((start) => parseInt(code.slice(start, start + 2), 16)));

/** [red, green, blue] of a similarity above chance; values outside [0, 1] are clamped. */
export function similarityRgb(share) {
  const position = Math.min(1, Math.max(0, share)) * (STEPS.length - 1);
  const index = Math.min(Math.floor(position), STEPS.length - 2);
  return STEPS[index].map((low, channel) => Math.round(low + (STEPS[index + 1][channel] - low) * (position - index)));
}

const SHADES = Array.from({ length: 101 }, (_, percent) => `rgb(${similarityRgb(percent / 100).join(",")})`);

/** The CSS colour of a similarity above chance, in steps of one percent. */
export function similarityColour(share) {
  return SHADES[Math.round(100 * Math.min(1, Math.max(0, share)))];
}

export const DARK = { background: "#1e1e22", text: "#ececf0", faint: "#9a9aa4", line: "#3a3a40", empty: "#2a2a30" };
export const LIGHT = { background: "#ffffff", text: "#1e1e22", faint: "#66666f", line: "#d3d3da", empty: "#ececf0" };

/** The theme that suits the text colour of an element: light text means a dark page. */
export function themeOf(element) {
  const channels = getComputedStyle(element).color.match(/[\d.]+/g) ?? ["255", "255", "255"];
  const [red, green, blue] = channels.map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 128 ? DARK : LIGHT;
}
