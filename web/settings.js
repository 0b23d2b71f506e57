import { app } from "../../scripts/app.js";

// The settings page shows these; nodes/host/settings.py reads them. Both files hold the defaults.
app.registerExtension({
  name: "LoraTransfer.Settings",
  settings: [
    {
      id: "LoraTransfer.Cache.LimitGB",
      category: ["LoRA Transfer", "Cache of decomposed bases", "Size"],
      name: "Largest size on disk, in GB",
      tooltip: "The least recently used entries are deleted first. SDXL takes 4 GB at rank 320, 10 GB at half of the rank.",
      type: "number",
      attrs: { min: 1, max: 10000 },
      defaultValue: 20,
    },
    {
      id: "LoraTransfer.Cache.Precision",
      category: ["LoRA Transfer", "Cache of decomposed bases", "Precision"],
      name: "Precision",
      tooltip: "float16 takes half the space and changes a transferred LoRA by 0.03 %. off: bases are decomposed each time.",
      type: "combo",
      options: ["float32", "float16", "off"],
      defaultValue: "float32",
    },
  ],
});
