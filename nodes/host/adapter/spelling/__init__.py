"""How adapter files spell the names of a model's modules, where ComfyUI's own reader stops short.

A new prefix goes into prefixes.py, a family's names into names.txt, a new ending of a key into endings.py; numbered.py
reads files that number their modules.
"""
