"""Reads model and adapter files, checks every number they contain, and writes adapter files."""

from .header import TensorHeader
from .tensor_file import TORCH_DTYPES, TensorFile, file_sha256, open_tensor_file, read_tensors, write_new

__all__ = [
    "TORCH_DTYPES",
    "TensorFile",
    "TensorHeader",
    "file_sha256",
    "open_tensor_file",
    "read_tensors",
    "write_new",
]
