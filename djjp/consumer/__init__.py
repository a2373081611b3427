"""The runtime layer: claims jobs and runs them."""
