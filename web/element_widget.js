import { elementOf } from "./kept_properties.js";

const MARGIN = 4; // pixels around the element

/**
 * A node's widget that shows an element and has no value, made when it is asked for the first time. create() makes the
 * element; heightOf() tells its height in pixels.
 */
export function elementWidget(node, name, create, heightOf) {
  const existing = node.widgets?.find((widget) => widget.name === name);
  if (existing) return existing;
  const height = () => heightOf() + 2 * MARGIN;
  const widget = node.addDOMWidget(name, name, elementOf(node, name, create), {
    serialize: false, // not sent in the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false; // not saved among the values of the node's widgets
  return widget;
}
