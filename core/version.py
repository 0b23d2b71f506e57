"""The pack's version: the one place in code (a test holds pyproject.toml to it)."""

VERSION = "0.1.0"
