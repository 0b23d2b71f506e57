"""Set-up, demo and test tools of the repository. Not part of the pack that users install."""
