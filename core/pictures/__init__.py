"""Reports drawn as still pictures."""
