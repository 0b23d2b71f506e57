"""The command line: cli.py without a server."""
