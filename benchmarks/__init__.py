"""Benchmarks: `python3 run.py bench NAME`. Each prints its tables and, last, one line of JSON."""
