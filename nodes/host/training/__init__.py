"""Trains deltas on a loaded model inside ComfyUI's sampling. Refine LoRA and Train LoRA-X share it."""
