"""Models that are split into several safetensors files (shards): one of them stands for all."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..errors import UnreadableFile
from ..layers import Rows
from .tensor_file import TensorFile, open_tensor_file

# "model-00001-of-00003", "model.fp16-00002-of-00002", "model_1_of_2": the number of a shard and how many there are.
_NUMBERED = re.compile(r"^(?P<before>(?:.*\D)?)(?P<number>\d+)(?P<of>[-_. ]of[-_. ])(?P<total>\d+)(?P<after>.*)$")

_MOST_SHARDS = 10_000  # a larger number in a name is no count of shards


@dataclass(frozen=True)
class ShardedFile(TensorFile):
    """Several files as one. path: the one that was chosen. shards: which file holds each tensor."""

    shards: Mapping[str, TensorFile] = field(default_factory=dict[str, TensorFile])

    def parts(self) -> tuple[TensorFile, ...]:
        return tuple({file.path: file for file in self.shards.values()}.values())

    def mark(self, key: str) -> str | None:
        return self.shards[key].mark(key)

    def read(self, key: str, rows: Rows | None = None) -> Tensor:
        return self.shards[key].read(key, rows)


def open_model_file(path: Path) -> TensorFile:
    """The headers of a model: of one file or, where the file is a shard, of all. UnreadableFile where one is missing,
    or where the shards are not of one model."""
    index = _index_of(path)
    paths = shard_paths(path)
    if len(paths) == 1:
        return open_tensor_file(path)
    if missing := [shard.name for shard in paths if not shard.is_file()]:
        raise UnreadableFile(
            f"File {path}: it is one of the {len(paths)} files of a model, and {', '.join(missing[:3])}"
            f"{' and others are' if len(missing) > 3 else ' is' if len(missing) == 1 else ' are'} not beside it. "
            "Put all of them into its folder. If it is a whole model, give it a name without such a number."
        )
    files = {shard.name: open_tensor_file(shard) for shard in paths}
    shards: dict[str, TensorFile] = {}
    for name, file in files.items():
        for key in file.tensors:
            if key in shards and index.get(key) not in files:
                raise UnreadableFile(
                    f"File {path}: tensor {key} is in two files of the model, {shards[key].path.name} and {name}. They "
                    "are not of one model: fetch all of them again."
                )
            if index.get(key, name) == name:
                shards[key] = file
    if absent := next((key for key in index if key not in shards), None):
        raise UnreadableFile(
            f"File {path}: the index beside it says that {index[absent]} holds tensor {absent}, and it does not. The "
            "files are not of one model: fetch all of them and the index again."
        )
    tensors = {key: file.tensors[key] for key, file in shards.items()}
    metadata = {key: value for file in files.values() for key, value in file.metadata.items()}
    return ShardedFile(path, tensors, metadata, None, shards)


def require_whole(file: TensorFile) -> None:
    """UnreadableFile where a file is one shard of several and was opened alone."""
    count = len(shard_paths(file.path))
    if count > 1 and not isinstance(file, ShardedFile):
        raise UnreadableFile(
            f"File {file.path}: it is one of the {count} files of a model. Put all of them into its folder, or choose "
            "a file that holds the whole model."
        )


def shard_paths(path: Path) -> list[Path]:
    """Every file of the model that a file belongs to, whether it is there or not: of the index that names it, else by
    its number; the file alone where it is no shard."""
    names = sorted(set(_index_of(path).values())) or _numbered(path)
    return [path.with_name(name) for name in names] if path.name in names else [path]


def _index_of(path: Path) -> dict[str, str]:
    """Tensor -> file name, of an index in the folder that names this file; empty without one that can be read."""
    for index in sorted(path.parent.glob("*.index*.json")):
        try:
            written = json.loads(index.read_text(encoding="utf-8"))
            files = {str(key): str(name) for key, name in written["weight_map"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # the numbers in the names tell as much
        if path.name in files.values() and all(Path(name).name == name for name in files.values()):
            return files
    return {}


def _numbered(path: Path) -> list[str]:
    """The names of all shards by the number in one; none where it has none."""
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
