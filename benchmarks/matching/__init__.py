"""Tests matching on known block maps, and the verdict on related and unrelated pairs."""
