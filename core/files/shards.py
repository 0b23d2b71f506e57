"""Opens models that are split into several safetensors files (shards), by the path of any of them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..errors import UnreadableFile
from ..layers import Rows
from .tensor_file import TensorFile, open_tensor_file

# "model-00001-of-00003", "model.fp16-00002-of-00002", "model_1_of_2": the number of a shard and how many there are.
_NUMBERED = re.compile(r"^(?P<before>(?:.*\D)?)(?P<number>\d+)(?P<of>[-_. ]of[-_. ])(?P<total>\d+)(?P<after>.*)$")

_MOST_SHARDS = 10_000  # a larger number in a name is not a number of shards


@dataclass(frozen=True)
class ShardedFile(TensorFile):
    """Several files as one. path: the file that the user chose. shards: by tensor, the file that contains it."""

    shards: Mapping[str, TensorFile] = field(default_factory=dict[str, TensorFile])

    def parts(self) -> tuple[TensorFile, ...]:
        return tuple({file.path: file for file in self.shards.values()}.values())

    def mark(self, key: str) -> str | None:
        return self.shards[key].mark(key)

    def read_parts(self, key: str, parts: Sequence[Rows]) -> Iterator[Tensor]:
        return self.shards[key].read_parts(key, parts)


def open_model_file(path: Path) -> TensorFile:
    """Read the headers of a model file; if it is a shard, those of all shards.

    UnreadableFile if a shard is missing, or if the shards belong to different models.
    """
    index = _index_of(path)
    paths = shard_paths(path)
    if len(paths) == 1:
        return open_tensor_file(path)
    if missing := [shard.name for shard in paths if not shard.is_file()]:
        raise UnreadableFile(
            f"File {path}: it is one of the {len(paths)} files of a model, and {', '.join(missing[:3])}"
            f"{' and others are' if len(missing) > 3 else ' is' if len(missing) == 1 else ' are'} not beside it. "
            "Put all of them into its folder. If it is a whole model, rename it to a name without shard numbers."
        )
    files = {shard.name: open_tensor_file(shard) for shard in paths}
    shards: dict[str, TensorFile] = {}
    for name, file in files.items():
        for key in file.tensors:
            if key in shards and index.get(key) not in files:
                raise UnreadableFile(
                    f"File {path}: tensor {key} is in two files of the model, {shards[key].path.name} and {name}. They "
                    "belong to different models: download all of them again."
                )
            if index.get(key, name) == name:
                shards[key] = file
    if absent := next((key for key in index if key not in shards), None):
        raise UnreadableFile(
            f"File {path}: its index says that {index[absent]} contains tensor {absent}, but it does not. The files "
            "belong to different models: download all of them and the index again."
        )
    tensors = {key: file.tensors[key] for key, file in shards.items()}
    metadata = {key: value for file in files.values() for key, value in file.metadata.items()}
    return ShardedFile(path, tensors, metadata, None, shards)


def require_whole(file: TensorFile) -> None:
    """Raise UnreadableFile if a file is one of several shards and was opened without the others."""
    count = len(shard_paths(file.path))
    if count > 1 and not isinstance(file, ShardedFile):
        raise UnreadableFile(
            f"File {file.path}: it is one of the {count} files of a model. Put all of them into its folder, or choose "
            "a file that holds the whole model."
        )


def shard_paths(path: Path) -> list[Path]:
    """The paths of all shards of the model that a file belongs to, whether they exist or not.

    They come from an index file that names it, or else from the number in its name. Only the file itself if it is not a
    shard.
    """
    names = sorted(set(_index_of(path).values())) or _numbered(path)
    return [path.with_name(name) for name in names] if path.name in names else [path]


def _index_of(path: Path) -> dict[str, str]:
    """Tensor -> file name, from an index in the folder that names this file; empty if there is no readable index."""
    for index in sorted(path.parent.glob("*.index*.json")):
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            files = {str(key): str(name) for key, name in content["weight_map"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # the numbers in the file names give the same information
        if path.name in files.values() and all(Path(name).name == name for name in files.values()):
            return files
    return {}


def _numbered(path: Path) -> list[str]:
    """The names of all shards, from the number in the name of one of them; empty if it has none."""
    match = _NUMBERED.match(path.stem)
    if match is None or len(match["number"]) != len(match["total"]):
        return []
    number, total = int(match["number"]), int(match["total"])
    if not 1 < total < _MOST_SHARDS or number > total:
        return []

    def name(index: int) -> str:
        return (
            f"{match['before']}{index:0{len(match['total'])}}{match['of']}{match['total']}{match['after']}{path.suffix}"
        )

    first = 0 if number == 0 or (number < total and path.with_name(name(0)).is_file()) else 1
    return [name(index) for index in range(first, first + total)]
