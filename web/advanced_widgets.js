// Hides the advanced widgets of the pack's nodes in the canvas too, until "Show Advanced" in a node's menu, or ComfyUI's
// setting for all nodes, shows them. Nodes 2.0 does this by itself; the canvas looks at another flag than the one that
// the page sets from a node's schema. A widget that is connected stays visible in both.
import { app } from "../../scripts/app.js";

const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets";

/** A widget's companion, such as "control after generate" of a seed, is as advanced as the widget. */
function isAdvanced(node, widget) {
  const owner = node.widgets?.find((other) => other.linkedWidgets?.includes(widget));
  return Boolean((owner ?? widget).options?.advanced);
}

function isHidden(node, widget) {
  if (node.showAdvanced || !isAdvanced(node, widget) || app.ui.settings.getSettingValue(ALWAYS)) return false;
  return node.getSlotFromWidget(widget)?.link == null;
}

app.registerExtension({
  name: "LoraTransfer.AdvancedWidgets",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("LoraTransfer")) return;
    const { isWidgetVisible, getLayoutWidgets } = nodeType.prototype;
    nodeType.prototype.isWidgetVisible = function (widget) {
      return isWidgetVisible.call(this, widget) && !isHidden(this, widget);
    };
    nodeType.prototype.getLayoutWidgets = function () {
      return getLayoutWidgets.call(this).filter((widget) => !isHidden(this, widget));
    };
    nodeType.prototype.hasAdvancedWidgets = function () {
      return this.widgets?.some((widget) => isAdvanced(this, widget)) ?? false;
    };
  },
});
