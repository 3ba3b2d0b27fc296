"""The seam to Flower's messages."""
