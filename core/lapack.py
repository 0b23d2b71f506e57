"""LAPACK's partial symmetric eigensolver, called so that it runs beside other threads.

torch has none, and scipy.linalg.eigh, which calls the same routine, holds Python's lock while it works. SciPy offers
its LAPACK to C code as function pointers (scipy.linalg.cython_lapack); ctypes lets go of the lock while it calls one.
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
    """The `count` largest eigenvalues (count), descending, and their vectors (n, count) of a matrix (n, n) on the CPU.

    float32 or float64. Only the lower triangle is read. LAPACK's relatively robust representations (?syevr): the cost
    falls with `count`, and so does the error against divide and conquer, of which torch has only the whole spectrum.
    """
    n = symmetric.shape[0]
    if symmetric.shape != (n, n) or not 0 < count <= n:
        raise ShapeMismatch(f"Eigenpairs: expected a square matrix and 0 < count <= n, found {count} of {n} rows.")
    real, name = _REAL[symmetric.dtype]
    matrix = symmetric.clone(memory_format=torch.contiguous_format)  # LAPACK works in it
    values = torch.empty(n, dtype=matrix.dtype)
    vectors = torch.empty(count, n, dtype=matrix.dtype)  # column-major (n, count) to LAPACK
    support = (ctypes.c_int * (2 * count))()
    found, info = ctypes.c_int(), ctypes.c_int()
    nothing = ctypes.byref(real(0))

    def call(work: Any, work_size: int, whole_work: Any, whole_size: int) -> None:
        function = _function(name)
        function(
            *(b"V", b"I", b"U"),  # vectors too, by index; a row-major lower triangle is a column-major upper one
            *(_int(n), matrix.data_ptr(), _int(n)),
            *(nothing, nothing, _int(n - count + 1), _int(n), nothing),
            *(ctypes.byref(found), values.data_ptr(), vectors.data_ptr(), _int(n), support),
            *(work, _int(work_size), whole_work, _int(whole_size), ctypes.byref(info)),
        )

    best, best_whole = real(), ctypes.c_int()
    call(ctypes.byref(best), -1, ctypes.byref(best_whole), -1)  # asks how much work space is best
    sizes = int(best.value), best_whole.value
    call((real * sizes[0])(), sizes[0], (ctypes.c_int * sizes[1])(), sizes[1])
    if info.value != 0 or found.value != count:
        raise ShapeMismatch(
            f"Eigenpairs: LAPACK's {name} found {found.value} of {count} (info {info.value}). The matrix holds NaN or "
            "infinity: take another copy of the base."
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
