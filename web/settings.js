import { app } from "../../scripts/app.js";

// ComfyUI's settings page shows these; nodes/host/settings.py reads them. The defaults are the same in both files.
app.registerExtension({
  name: "LoraTransfer.Settings",
  settings: [
    {
      id: "LoraTransfer.Cache.LimitGB",
      category: ["LoRA Transfer", "Cache of decomposed bases", "Size"],
      name: "Largest size on disk, in GB",
      tooltip:
        "The size of the cache on disk; the least recently used bases are removed first. Raise it if you use many " +
        "bases: SDXL takes 4 to 10 GB.",
      type: "number",
      attrs: { min: 1, max: 10000 },
      defaultValue: 20,
    },
    {
      id: "LoraTransfer.Cache.Precision",
      category: ["LoRA Transfer", "Cache of decomposed bases", "Precision"],
      name: "Precision",
      tooltip:
        "float16 takes half the space and changes a transferred LoRA by 0.03 %. off keeps nothing: bases are " +
        "decomposed again in every run.",
      type: "combo",
      options: ["float32", "float16", "off"],
      defaultValue: "float32",
    },
  ],
});
