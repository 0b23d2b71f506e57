"""Trains a transferred LoRA further without data: the training loop, its teacher samples and its factors."""
