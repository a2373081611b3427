"""How fast djjp is on this machine, next to the same statements without it."""
