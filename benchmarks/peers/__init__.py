"""The same jobs through other queues: `python -m benchmarks.peers`."""
