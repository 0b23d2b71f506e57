"""The card that ComfyUI computes on: whether an error says that its memory ran out."""

import comfy.model_management

from ...core.memory import is_out_of_memory as is_so_in_words


def is_out_of_memory(error: Exception) -> bool:
    """ComfyUI knows torch's own errors (and clears one that is pending), core the words of cuBLAS and its like."""
    return comfy.model_management.is_oom(error) or is_so_in_words(error)
