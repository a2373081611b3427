"""An app with tasks: in `tasks.py`, where they are found, and in `elsewhere.py`, where they are not."""
