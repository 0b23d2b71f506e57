"""Trains a LoRA on pictures, inside the singular subspaces of its base (LoRA-X)."""
