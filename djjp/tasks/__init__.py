"""Django's task framework on djjp: tasks as jobs, and their results."""
