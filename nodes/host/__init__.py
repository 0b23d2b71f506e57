"""The only place that imports ComfyUI: it names layers, reads weights and adapters, and reports progress."""
