"""Tools to set up, demonstrate and test the repository. They are not part of the pack that users install."""
