"""The types of the pack's sockets. They hold frozen handles; none of them holds a weight of a base."""

from comfy_api.latest import io

CATEGORY = "LoRA Transfer"

BaseSocket = io.Custom("LORA_TRANSFER_BASE")  # HostBase
AdapterSocket = io.Custom("LORA_TRANSFER_ADAPTER")  # Adapter
SimilaritySocket = io.Custom("LORA_TRANSFER_SIMILARITY")  # Comparison[HostBase]
LoraModelSocket = io.Custom("LORA_MODEL")  # ComfyUI's own: a plain state dict
