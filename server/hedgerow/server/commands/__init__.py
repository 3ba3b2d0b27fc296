"""Commands of the coordinator's side."""
