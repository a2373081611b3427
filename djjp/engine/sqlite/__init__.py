"""What the database SQLite does in its own way."""
