"""Refines a LoRA inside ComfyUI: teacher samples, and the training on them."""
