"""Measures the interactive picture in a real browser: the size of its data, and the time until it is drawn."""
