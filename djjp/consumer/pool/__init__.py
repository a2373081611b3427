"""Pools: how jobs run at the same time, on threads or as coroutines."""
