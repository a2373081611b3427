"""SQLite: its implementation of `Database`, one module for each large part."""
