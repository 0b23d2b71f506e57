"""Refines a LoRA inside ComfyUI: teacher samples, the student and the training run."""
