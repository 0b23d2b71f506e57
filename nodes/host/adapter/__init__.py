"""Reads a LoRA file of any kind and spelling, applies it to a model, and writes it."""
