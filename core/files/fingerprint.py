"""Computes fingerprints of model files: a hash of all bytes, computed once for each state of a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from ..cache import SubspaceCache
from .file_state import open_unchanged, state_at
from .tensor_file import TensorFile

_CHUNK = 1 << 23  # bytes; BLAKE3 uses several threads for chunks of a megabyte or more


def model_fingerprint(file: TensorFile, cache: SubspaceCache | None, tick: Callable[[], None]) -> str:
    """BLAKE3 of all bytes of the file, or of the hashes of all shards. Takes about a second for a gigabyte on one core.

    The cache stores the result for as long as the file does not change. `tick` is called regularly, and may raise to
    cancel. ChangedFile if a file changed after its header was read.
    """
    return _join([_digest(part, cache, tick) for part in file.parts()])


def known_fingerprint(paths: Sequence[Path], cache: SubspaceCache | None) -> str | None:
    """The fingerprint of a model file, or of all its shards, if the cache knows it. Only the states of the files are
    looked at."""
    states = [state_at(path) for path in paths]
    if cache is None or any(state is None or not state.settled for state in states):
        return None
    marks = [f"{path.resolve()} {state.mark()}" for path, state in zip(paths, states, strict=True) if state]
    digests = [cache.digest_at(_location(mark)) for mark in marks]
    return None if None in digests else _join([digest for digest in digests if digest])


def _join(digests: list[str]) -> str:
    if len(digests) == 1:
        return f"blake3:{digests[0]}"
    return f"shards-blake3:{blake3(' '.join(digests).encode()).hexdigest()}"


def _location(mark: str) -> str:
    return f"whole file {mark}"


def _digest(part: TensorFile, cache: SubspaceCache | None, tick: Callable[[], None]) -> str:
    mark = part.mark("")
    location = None if mark is None else _location(mark)
    known = None if cache is None or location is None else cache.digest_at(location)
    if known is not None:
        return known
    digest = blake3(max_threads=blake3.AUTO)
    buffer = bytearray(_CHUNK)
    with open_unchanged(part.path, part.state) as stream:
        while count := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            tick()
    if cache is not None and location is not None:
        cache.store_digest(location, digest.hexdigest())
    return digest.hexdigest()
