"""What a run found, as sentences and as JSON: transfer, check and refine."""
