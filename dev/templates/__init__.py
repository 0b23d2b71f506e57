"""Writes the workflows that the pack ships: ComfyUI's templates (example_workflows/) and its blueprint (subgraphs/).

`.run/venv/bin/python -m dev.templates` writes them; `--thumbnails` draws their pictures too.
"""
