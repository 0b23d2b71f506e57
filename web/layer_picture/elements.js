// Small elements of the page. Texts are always text: no string becomes HTML.

import { VIRIDIS } from "./colours.js";
import { areCopiesMarked } from "./draw.js";

/** An element with attributes and a text. */
export function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

/** A <div> of a class around some elements. */
export function group(name, attributes, ...children) {
  const made = element("div", { class: name, ...attributes });
  made.append(...children);
  return made;
}

/** Give a key to `act`, and keep it from the page's own shortcuts if that used it. */
export function answerKey(event, act) {
  if (event.ctrlKey || event.metaKey || event.altKey || !act()) return;
  event.preventDefault();
  event.stopPropagation();
}

/** The legend: the colours from chance to equal, and what the marks mean of the states that occur. */
export function legend(states) {
  const ramp = element("i", { class: "lt-ramp" });
  ramp.style.background = `linear-gradient(90deg, ${VIRIDIS.join(", ")})`;
  const entries = [[ramp, "chance to equal"]];
  const marks = [
    ["below", "left out by the threshold", states.includes("below")],
    ["unmatched", "no partner", states.includes("unmatched")],
    ["copied", "copied unchanged", areCopiesMarked(states)],
  ];
  for (const [state, text, occurs] of marks) {
    if (occurs) entries.push([element("i", { class: `lt-${state}` }), text]);
  }
  return entries.map(([sample, text]) => {
    const entry = element("span");
    entry.append(sample, text);
    return entry;
  });
}

/** Save a blob as a file, as a click on a link to it does. */
export function saveBlob(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000); // the browser must have started to read it
}
