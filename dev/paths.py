"""Paths. Everything that run.py makes is below RUN, which git ignores."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"

VENV = RUN / "venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CUDA_STUBS = RUN / "cuda_stubs"
STAMPS = RUN / "stamps"
SMALL_MODELS = RUN / "small_models"
DEMO = RUN / "demo"
HOST = RUN / "host"
SCREENSHOTS = RUN / "screenshots"

PACK_FOLDER = "ComfyUI-LoRA-Transfer"
TEMPLATES = ROOT / "example_workflows"
BLUEPRINTS = ROOT / "subgraphs"
DEMO_WORKFLOW = ROOT / "dev" / "emoji_demo.json"
REFINE_WORKFLOW = ROOT / "dev" / "emoji_refine.json"
DEMO_NODES = ROOT / "dev" / "demo_nodes"
DEMO_PICTURES = ROOT / "dev" / "emoji_line_art"  # pictures with captions, to train on
DEMO_MODELS = ROOT / "benchmarks" / "quality" / "weights"
