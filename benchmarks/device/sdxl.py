"""Check and Refine between two SDXL-shaped models of random weights, at 1024 px: seconds, and the card's true peak."""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import models, ours
from .card import clear, limited, peak_of
from .parts import Row, Setting

CALCULATED = 6.8  # GB of a step in 16 bits with one row at once and checkpoints: benchmarks/refine/memory.py
_SIZE, _TINY_SIZE = 1024, 64  # pixels
_SMALL_CARD = 8.5  # GB: SDXL in 16 bits is 5.1, so that a step has room for one latent at once
_LESS_THAN_THE_WEIGHTS = 4.5  # GB: weights in 16 bits must stay in main memory
_ROOM = 0.6  # share of the activations of a whole batch for which there is room when memory is to run out


@dataclass(frozen=True)
class _Case:
    """A refinement. limit: gigabytes of the card, None all of it; told: whether ComfyUI knows of it; calculated:
    whether its peak is the calculated one."""

    name: str
    words: ours.RefineWords
    fp8: bool = False
    limit: float | None = None
    told: bool = True
    calculated: bool = False


def check_rows(setting: Setting) -> Iterator[Row]:
    """In 16 bits; where memory runs out for all latents at once; on a small card; in fp8."""
    pair = models.pair(setting.device, setting.tiny, fp8=False)
    whole = _checked("16 bits", pair, setting)
    yield whole
    weights, peak = 2 * models.gigabytes(pair.target), whole.get("card, GB")
    yield _checked(
        "16 bits, no room for all latents at once",
        pair,
        setting,
        limit=None if peak is None else weights + _ROOM * (peak - weights),
        told=False,
    )
    if not setting.tiny:
        yield _checked("16 bits, a small card", pair, setting, limit=_SMALL_CARD)
    del pair
    _unload()
    yield _checked("fp8", models.pair(setting.device, setting.tiny, fp8=True), setting)


def refine_rows(setting: Setting) -> Iterator[Row]:
    """As it comes; on cards that have less; in fp8. The calculated peak is that of the second."""
    size = _TINY_SIZE if setting.tiny else _SIZE
    words = ours.RefineWords(4, 16, 8, 1, size)
    one = replace(words, batch=1)
    cases = (
        _Case("16 bits, 16 rows a step", words),
        _Case("16 bits, 1 row a step, a small card", one, limit=_SMALL_CARD, calculated=True),
        _Case("16 bits, 16 rows a step, memory runs out by surprise", words, limit=2 * _SMALL_CARD, told=False),
        _Case("16 bits, weights in main memory", replace(one, steps=2), limit=_LESS_THAN_THE_WEIGHTS),
        _Case("fp8, 16 rows a step", words, fp8=True),
        _Case("fp8, 1 row a step, a small card", one, fp8=True, limit=_LESS_THAN_THE_WEIGHTS),
    )
    yield from _refined_all(tuple(_shorter(one) for one in cases[1::4]) if setting.tiny else cases, setting)


def dynamic_rows(setting: Setting) -> Iterator[Row]:
    """With ComfyUI's dynamic loading, which its main program switches on for NVIDIA's cards."""
    if setting.device == "cuda":
        _switch_on_dynamic_loading()
    pair = models.pair(setting.device, setting.tiny, fp8=False, folder=setting.folder)
    yield _checked("check, 16 bits", pair, setting) | {"dynamic": pair.target.is_dynamic()}
    if setting.tiny:
        return
    words = ours.RefineWords(2, 4, 4, 1, _SIZE)
    yield _refined(_Case("refine, 16 bits, 4 rows a step", words), pair)


def _shorter(case: _Case) -> _Case:
    return replace(case, words=replace(case.words, steps=1, batch=2, samplings=2))


def _refined_all(cases: tuple[_Case, ...], setting: Setting) -> Iterator[Row]:
    pair = models.pair(setting.device, setting.tiny, fp8=False)
    yield _estimated(pair, cases[0].words, setting.device)
    for case in cases:
        if case.fp8 != pair.fp8:
            del pair
            _unload()
            pair = models.pair(setting.device, setting.tiny, fp8=case.fp8)
        yield _refined(case, pair)
        _unload()


def _estimated(pair: models.Pair, words: ours.RefineWords, device: str) -> Row:
    """What the node says before the first case: the share in core/refine/speeds.py, times these seconds
    over those of the next row, is the one that was measured."""
    seconds, size = ours.estimate(pair.target, words)
    row = {"what": "the node's own estimate of the next row", "teacher and training, s": seconds}
    return row | {"at least, GB": size / 1e9, "share of a product's speed": ours.share_of_speed(device)}


def _refined(case: _Case, pair: models.Pair) -> Row:
    started = time.monotonic()
    found, row = _within(
        case.name,
        lambda: ours.refined(
            pair.source, pair.target, pair.adapter, pair.adapter, models.prompts(), case.words, _silent
        ),
        case.limit,
        case.told,
    )
    if found is None:
        return row
    return {
        **row,
        "calculated, GB": CALCULATED if case.calculated else None,
        "teacher s": found.teaching,
        "training s": found.seconds,
        "teacher and training, s": found.teaching + found.seconds,
        "a step, s": found.seconds / max(1, found.steps),
        "all, s": time.monotonic() - started,
        "gap closed": [found.before, found.score],
        "notes": list(found.notes),
    }


def _checked(
    name: str, pair: models.Pair, setting: Setting, limit: float | None = None, told: bool = True
) -> dict[str, Any]:
    size, levels = (_TINY_SIZE, 1) if setting.tiny else (_SIZE, 6)
    prompt = models.prompts(1)
    found, row = _within(
        name,
        lambda: ours.checked(pair.source, pair.target, pair.adapter, pair.adapter, prompt, size, levels),
        limit,
        told,
    )
    if found is None:
        return row
    return {**row, "s": found.seconds, "gap closed": found.score, "notes": list(found.notes)}


def _within(
    name: str, work: Callable[[], ours.Measured], limit: float | None, told: bool
) -> tuple[ours.Measured | None, dict[str, Any]]:
    """What the work gives on a card with so many gigabytes, and its peak; a run that fails leaves its reason."""
    row: dict[str, Any] = {"what": name, "limit, GB": limit}
    try:
        with limited(limit, _management() if told else None):
            found, peak = peak_of(work)
    except Exception as error:  # noqa: BLE001  (the next row must be tried whatever this one met)
        traceback.print_exc()
        return None, {**row, "fault": f"{type(error).__name__}: {str(error)[:200]}"}
    return found, {**row, "card, GB": peak}


def _management() -> Any:
    import comfy.model_management

    return comfy.model_management


def _unload() -> None:
    _management().unload_all_models()
    clear()


def _switch_on_dynamic_loading() -> None:
    """As ComfyUI's main.py does it, after child.py has loaded the library."""
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.control

    devices = _management().get_all_torch_devices()
    if not comfy_aimdo.control.init_devices([(one.index or 0, 0) for one in devices]):
        raise RuntimeError("comfy-aimdo does not work with this card or driver")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def _silent(text: str) -> None:
    print(f"  {text}", flush=True)
