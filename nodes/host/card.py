"""Recognises errors that mean that a card's memory ran out."""

import comfy.model_management

from ...core.memory import is_out_of_memory as names_out_of_memory


def is_out_of_memory(error: Exception) -> bool:
    """ComfyUI recognises torch's own errors (and clears a pending one); core recognises the texts of cuBLAS and other
    libraries."""
    return comfy.model_management.is_oom(error) or names_out_of_memory(error)
