"""The version of the pack; a test compares pyproject.toml with it."""

VERSION = "0.1.0"
