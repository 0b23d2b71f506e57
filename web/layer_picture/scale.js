// The scale of the threshold: a histogram of similarities with a line that can be dragged.

import { countScores } from "./counts.js";
import { drawScale, prepareCanvas } from "./draw.js";
import { answerKey, element } from "./elements.js";

const BINS = 50;
const HEIGHT = 62;
const STEPS = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1 };
const ENDS = { Home: 0, End: 1 };

/** onChange(value, isFinal): the line was dragged; isFinal is false until the user lets it go. */
export class ThresholdScale {
  constructor(onChange) {
    this.onChange = onChange;
    this.isDragged = false;
    this.canvas = element("canvas", {
      class: "lt-scale", tabindex: "0", role: "slider", "aria-label": "Threshold", "aria-valuemin": "0",
      "aria-valuemax": "1",
    });
    this.canvas.addEventListener("pointerdown", (event) => this.startDrag(event));
    this.canvas.addEventListener("keydown", (event) => answerKey(event, () => this.useKey(event.key)));
  }

  /** words: what the threshold does, for screen readers. */
  draw({ model, threshold, isShown, width, theme, sharpness, words }) {
    this.width = width;
    this.threshold = threshold;
    const context = prepareCanvas(this.canvas, width, HEIGHT, sharpness);
    const counts = countScores(model, BINS, isShown);
    drawScale(context, { width, height: HEIGHT, counts, threshold, isDragged: this.isDragged }, theme);
    this.canvas.setAttribute("aria-valuenow", threshold.toFixed(2));
    this.canvas.setAttribute("aria-valuetext", `threshold ${threshold.toFixed(2)}: ${words}`);
  }

  useKey(key) {
    if (key in ENDS) this.change(ENDS[key], true);
    else if (key in STEPS) this.change(this.threshold + STEPS[key], true);
    else return false;
    return true;
  }

  startDrag(event) {
    if (event.button !== 0) return;
    event.stopPropagation(); // otherwise the page drags the node. preventDefault would also stop mouseup, which undo needs
    this.canvas.setPointerCapture(event.pointerId);
    this.isDragged = true;
    const drag = (moved) => this.change(moved.offsetX / this.width, false);
    const drop = () => {
      this.canvas.removeEventListener("pointermove", drag);
      this.isDragged = false;
      this.change(this.threshold, true);
    };
    this.canvas.addEventListener("pointermove", drag);
    this.canvas.addEventListener("lostpointercapture", drop, { once: true });
    drag(event);
  }

  change(value, isFinal) {
    this.threshold = Math.round(100 * Math.min(1, Math.max(0, value))) / 100;
    this.onChange(this.threshold, isFinal);
  }
}
