"""Draws reports as pictures."""
