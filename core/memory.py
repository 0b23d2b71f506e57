"""Recognises errors that mean a graphics card is out of memory."""

import torch

# Errors of cuBLAS, cuSOLVER and cuDNN have their own wording. Their first call allocates a handle; on a full card that
# fails with "not initialized".
_PHRASES = ("out of memory", "alloc_failed", "status_not_initialized")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or of one of its libraries means that a card is out of memory."""
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(phrase in text for phrase in _PHRASES)
