"""Finds a model's module by any name that adapter files use for it, beyond those that ComfyUI itself reads.

A new prefix goes into prefixes.py, a family's names into names.txt, a new ending of a key into endings.py. numbered.py
reads files that number their modules.
"""
