"""The device's side: local training, and the Flower ClientApp around it."""
