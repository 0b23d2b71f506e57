"""What runs on a graphics card: one command gathers everything for a bare machine, another measures it there."""
