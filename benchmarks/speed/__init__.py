"""What a transfer costs, beside the published procedure and beside what the machine could do at best."""
