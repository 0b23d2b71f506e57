"""Runs models on noised latents inside ComfyUI's sampling."""
