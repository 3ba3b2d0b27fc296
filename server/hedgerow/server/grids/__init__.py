"""Where the clients are: one Flower `Grid` for each way to reach them."""
