"""Computes fingerprints of model files: a hash of all bytes, computed once for each state of a file."""

from collections.abc import Callable

from blake3 import blake3

from ..cache import SubspaceCache
from .file_state import open_unchanged
from .tensor_file import TensorFile

_CHUNK = 1 << 23  # bytes; BLAKE3 uses several threads for chunks of a megabyte or more


def model_fingerprint(file: TensorFile, cache: SubspaceCache | None, tick: Callable[[], None]) -> str:
    """BLAKE3 of all bytes of the file, or of the hashes of all shards. Takes about a second for a gigabyte on one core.

    The cache stores the result for as long as the file does not change. `tick` is called regularly, and may raise to
    cancel. ChangedFile if a file changed after its header was read.
    """
    digests = [_digest(part, cache, tick) for part in file.parts()]
    if len(digests) == 1:
        return f"blake3:{digests[0]}"
    return f"shards-blake3:{blake3(' '.join(digests).encode()).hexdigest()}"


def _digest(part: TensorFile, cache: SubspaceCache | None, tick: Callable[[], None]) -> str:
    mark = part.mark("")
    location = None if mark is None else f"whole file {mark}"
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
