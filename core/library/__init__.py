"""Transfers a whole library of adapters between two bases: the manifest, the order of work, and the summary."""
