"""Calls LAPACK's partial symmetric eigensolver without blocking other threads.

torch has no partial solver, and scipy.linalg.eigh, which calls the same routine, holds Python's lock while it runs.
SciPy exports its LAPACK to C code as function pointers (scipy.linalg.cython_lapack); ctypes releases the lock during a
call.
"""

# PyCapsules and ctypes have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false

import ctypes
from typing import Any

import torch
from scipy.linalg import cython_lapack
from torch import Tensor

from .errors import ShapeMismatch

_REAL = {torch.float32: (ctypes.c_float, "ssyevr"), torch.float64: (ctypes.c_double, "dsyevr")}


def leading_eigenpairs(symmetric: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues (count), descending, and their eigenvectors (n, count).

    symmetric: a matrix (n, n) on the CPU, float32 or float64; only its lower triangle is read. LAPACK's ?syevr
    (relatively robust representations): the smaller `count`, the lower the cost, and the more accurate it is than the
    divide and conquer of torch, which computes the whole spectrum. ShapeMismatch for a bad `count`, or if the matrix is
    not finite.
    """
    n = symmetric.shape[0]
    if symmetric.shape != (n, n) or not 0 < count <= n:
        raise ShapeMismatch(
            f"Eigenpairs: expected a square matrix and 0 < count <= n, found count {count} for shape "
            f"{tuple(symmetric.shape)}."
        )
    real, name = _REAL[symmetric.dtype]
    matrix = symmetric.clone(memory_format=torch.contiguous_format)  # LAPACK overwrites it
    values = torch.empty(n, dtype=matrix.dtype)
    vectors = torch.empty(count, n, dtype=matrix.dtype)  # column-major (n, count) to LAPACK
    support = (ctypes.c_int * (2 * count))()
    computed, info = ctypes.c_int(), ctypes.c_int()
    unused = ctypes.byref(real(0))

    def call(work: Any, work_size: int, int_work: Any, int_work_size: int) -> None:
        function = _function(name)
        function(
            *(b"V", b"I", b"U"),  # eigenvectors; range by index; a row-major lower triangle is a column-major upper one
            *(_int(n), matrix.data_ptr(), _int(n)),
            *(unused, unused, _int(n - count + 1), _int(n), unused),
            *(ctypes.byref(computed), values.data_ptr(), vectors.data_ptr(), _int(n), support),
            *(work, _int(work_size), int_work, _int(int_work_size), ctypes.byref(info)),
        )

    best_size, best_int_size = real(), ctypes.c_int()
    call(ctypes.byref(best_size), -1, ctypes.byref(best_int_size), -1)  # a size of -1 asks for the best size
    sizes = int(best_size.value), best_int_size.value
    call((real * sizes[0])(), sizes[0], (ctypes.c_int * sizes[1])(), sizes[1])
    if info.value != 0 or computed.value != count:
        raise ShapeMismatch(
            f"Eigenpairs: LAPACK's {name} computed {computed.value} of {count} (info {info.value}). The matrix holds "
            "NaN or infinity: use another copy of the base model."
        )
    return values[:count].flip(0), vectors.flip(0).mT


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _function(name: str) -> Any:
    capsule = cython_lapack.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_char_p] * 3, *[ctypes.c_void_p] * 18)(address)
