"""Transfers a library of LoRA files: finds them, works through them in batches, writes the results and the manifest."""
