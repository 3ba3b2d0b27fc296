"""The coordinator's side: rounds, aggregation, grids, and what a run leaves behind."""
