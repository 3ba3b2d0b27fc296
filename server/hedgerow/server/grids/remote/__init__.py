"""The gRPC grid: devices that join over one persistent stream each."""
