"""Benchmarks: `python3 run.py bench NAME`. Each prints its tables, and one line of JSON at the end."""
