"""Reports a run (transfer, check or refinement) as a sentence and as JSON."""
