"""A library of LoRAs: its cost for each file, its memory, its speed-up, and what survives a kill."""
