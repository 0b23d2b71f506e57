"""Trains a transferred LoRA further without data: the loop, its teacher samples and its factors."""
