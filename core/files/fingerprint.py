"""Fingerprints of model files: a hash of everything in them, taken once for each state of a file."""

from collections.abc import Callable

from blake3 import blake3

from ..cache import SubspaceCache
from .file_state import open_unchanged
from .tensor_file import TensorFile

_CHUNK = 1 << 23  # bytes: BLAKE3 works on a chunk with several threads from a megabyte on


def model_fingerprint(file: TensorFile, cache: SubspaceCache | None, tick: Callable[[], None]) -> str:
    """BLAKE3 of all bytes of the file, or of the hashes of all its shards. About a second for a gigabyte on one core;
    the cache knows it afterwards, as long as no file changes. `tick` is called now and then, to cancel by raising.
    ChangedFile where a file is no longer in the state in which its header was read."""
    digests = [_digest(part, cache, tick) for part in file.parts()]
    if len(digests) == 1:
        return f"blake3:{digests[0]}"
    return f"shards-blake3:{blake3(' '.join(digests).encode()).hexdigest()}"


def _digest(part: TensorFile, cache: SubspaceCache | None, tick: Callable[[], None]) -> str:
    mark = part.mark("")
    place = None if mark is None else f"whole file {mark}"
    known = None if cache is None or place is None else cache.digest_at(place)
    if known is not None:
        return known
    digest = blake3(max_threads=blake3.AUTO)
    room = bytearray(_CHUNK)
    with open_unchanged(part.path, part.state) as stream:
        while count := stream.readinto(room):
            digest.update(memoryview(room)[:count])
            tick()
    if cache is not None and place is not None:
        cache.note_place(place, digest.hexdigest())
    return digest.hexdigest()
