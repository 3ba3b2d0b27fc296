"""What operators see of a run, and what they may do to it from elsewhere."""
