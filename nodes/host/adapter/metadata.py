"""A saved adapter's metadata: those of the original, with outdated entries updated or removed."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.files.json_text import read_json
from ....core.reports.transfer import Report
from ..base.from_model import HostBase
from .peft import says_scale

PROVENANCE = "lora_transfer"  # the key of our own entry

_LARGEST_NUMBER = 1e9  # steps or strengths; an integer in JSON can be too large for a float
_LONGEST_TEXT = 1_000  # characters of our own entry that are kept if somebody else wrote it

# sd-scripts' entries about the old base and the old file.
_STALE = (
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
)

# ComfyUI's family -> what sd-scripts and the modelspec call a LoRA for it. Families that share a class have no entry: a
# base's header does not show, for example, whether an SD 2 uses v-prediction.
_BASE_NAMES = {
    "SD15": ("sd_v1", "stable-diffusion-v1/lora"),
    "SDXL": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    "Flux": ("flux1", "flux-1-dev/lora"),
}
_BASE_ENTRIES = ("ss_base_model_version", "modelspec.architecture")


def transferred_metadata(
    original: Mapping[str, str], tensors: Mapping[str, Tensor], report: Report, target: HostBase
) -> dict[str, str]:
    """The metadata of a transferred adapter. Trigger words and training settings stay; base, network, rank and alpha
    are updated. Our own entry holds the origin as JSON, including earlier transfers (A -> B -> C)."""
    kept = _on_target(original, tensors, target)
    provenance = report.provenance()
    if PROVENANCE in original:
        provenance["before"] = _from_json(original[PROVENANCE])
    return {**kept, PROVENANCE: json.dumps(provenance)}


def trained_metadata(
    original: Mapping[str, str], tensors: Mapping[str, Tensor], trained: Mapping[str, Any], base: HostBase
) -> dict[str, str]:
    """The metadata of an adapter that was trained on pictures. `trained` goes into our own entry, with the base; the
    steps of an earlier training on the same base are added. The other entries are those by which trainers name a base
    and a network."""
    entry = _from_json(original.get(PROVENANCE, "{}"))
    earlier = entry.get("trained") if isinstance(entry, dict) else None
    steps = max(0, int(_number(earlier, "steps", 0)))
    before = {} if not entry or earlier is not None else {"before": entry}
    provenance = {
        **before,
        "trained": {
            **trained,
            "steps": trained["steps"] + steps,
            "base": {"name": base.name, "fingerprint": base.fingerprint},
        },
    }
    names = dict(zip(_BASE_ENTRIES, _BASE_NAMES.get(base.family, ()), strict=False))
    expected = {"ss_network_module": "networks.lora", "ss_network_dim": "", "ss_network_alpha": ""}
    described = {**expected, "ss_sd_model_name": base.name, **names, **original}
    return {**_on_target(described, tensors, base), PROVENANCE: json.dumps(provenance)}


def refined_metadata(
    original: Mapping[str, str], tensors: Mapping[str, Tensor], refined: Mapping[str, Any], target: HostBase
) -> dict[str, str]:
    """The metadata of a refined adapter. `refined` goes into our own entry; the steps of earlier refinements are
    added."""
    entry = _from_json(original.get(PROVENANCE, "{}"))
    origin = entry if isinstance(entry, dict) and "trained" not in entry else {"before": entry}
    steps = max(0, int(_number(origin.get("refined"), "steps", 0)))
    provenance = {**origin, "refined": {**refined, "steps": refined["steps"] + steps}}
    return {**_on_target(original, tensors, target), PROVENANCE: json.dumps(provenance)}


def _on_target(original: Mapping[str, str], tensors: Mapping[str, Tensor], target: HostBase) -> dict[str, str]:
    """The original's entries, with base and network updated."""
    kept = {key: value for key, value in _without_scale(original).items() if key not in (*_STALE, *_BASE_ENTRIES)}
    names = dict(zip(_BASE_ENTRIES, _BASE_NAMES.get(target.family, ()), strict=False))
    kept |= {entry: name for entry, name in names.items() if entry in original}
    kept |= _network(original, tensors)
    if "ss_sd_model_name" in kept:
        kept["ss_sd_model_name"] = target.name
    return kept


def scaled_metadata(original: Mapping[str, str], tensors: Mapping[str, Tensor], strength: float) -> dict[str, str]:
    """The metadata of an adapter whose strength is now in its factors. Rank and alpha are updated; our own entry says
    the strength."""
    kept = _without_scale(original)
    entry = _from_json(original.get(PROVENANCE, "{}"))
    before = _number(entry, "scaled_by", 1.0)
    provenance = {**(entry if isinstance(entry, dict) else {"before": entry}), "scaled_by": strength * before}
    return {**kept, **_network(original, tensors), PROVENANCE: json.dumps(provenance)}


def method_of(metadata: Mapping[str, str]) -> str | None:
    """The method that an adapter was transferred by, from its metadata; None if they do not say."""
    entry = _from_json(metadata.get(PROVENANCE, ""))
    settings = entry.get("settings") if isinstance(entry, dict) else None
    method = settings.get("method") if isinstance(settings, dict) else None
    return method if isinstance(method, str) else None


def _without_scale(original: Mapping[str, str]) -> dict[str, str]:
    """The entries without alpha and rank of other trainers. These are in the factors now and would count twice."""
    return {key: value for key, value in original.items() if not says_scale(key)}


def _network(original: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """sd-scripts' entries for a file of factors, which is what every kind has become. A file of lycoris with
    convolutions becomes a LoCon, because sd-scripts' own network has no such convolutions."""
    downs = {key: tensor for key, tensor in tensors.items() if key.endswith(".lora_down.weight")}
    convs = {key for key, tensor in downs.items() if tensor.ndim > 2 and tensor.shape[2:].numel() > 1}
    linear = _rank_and_alpha(tensors, downs.keys() - convs or downs.keys())
    conv = _rank_and_alpha(tensors, convs)
    if linear is None:
        return {}
    conv_args = {} if conv is None else {"conv_dim": conv[0], "conv_alpha": conv[1]}
    entries = {"ss_network_dim": linear[0], "ss_network_alpha": linear[1]}
    if original.get("ss_network_module", "").startswith("lycoris"):
        entries["ss_network_module"] = "lycoris.kohya" if convs else "networks.lora"
        entries["ss_network_args"] = json.dumps({"algo": "locon", **conv_args} if convs else {})
    elif isinstance(arguments := _from_json(original.get("ss_network_args", "")), dict):
        known = {name: value for name, value in conv_args.items() if name in arguments}
        entries["ss_network_args"] = json.dumps({**arguments, **known})
    return {entry: value for entry, value in entries.items() if entry in original}


def _rank_and_alpha(tensors: Mapping[str, Tensor], downs: Any) -> tuple[str, str] | None:
    """The largest rank and the largest alpha of these modules, as sd-scripts writes them; None without modules."""
    if not downs:
        return None
    alphas = [float(tensors[key.replace(".lora_down.weight", ".alpha")]) for key in downs]
    return str(max(tensors[key].shape[0] for key in downs)), f"{max(alphas):g}"


def _from_json(written: str) -> Any:
    """An entry read as JSON; if it cannot be read, the beginning of its text."""
    try:
        return read_json(written)
    except ValueError:
        return written[:_LONGEST_TEXT]


def _number(entry: Any, name: str, otherwise: float) -> float:
    """A number of an entry, or `otherwise` if it holds something else."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_NUMBER:
        return otherwise
    return value
