"""The commands of the device's side."""
