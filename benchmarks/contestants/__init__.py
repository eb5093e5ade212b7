"""What is measured, each a program of its own: `python -m contestants.<name> <job as JSON>` prints its measurement."""
