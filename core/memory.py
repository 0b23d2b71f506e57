"""Whether an error says that a card's memory ran out."""

import torch

# The libraries beside torch's allocator (cuBLAS, cuSOLVER, cuDNN) say it in words of their own. They make a handle when
# they are first called: on a full card that fails, and is called "not initialized".
_WORDS = ("out of memory", "alloc_failed", "status_not_initialized")


def is_out_of_memory(error: Exception) -> bool:
    """By the type of the error, or by the words of the libraries beside torch."""
    words = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(said in words for said in _WORDS)
