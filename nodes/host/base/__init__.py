"""Opens a base model, from a file or from a loaded model, as names and lazy weights."""
