"""What the database PostgreSQL does in its own way."""
