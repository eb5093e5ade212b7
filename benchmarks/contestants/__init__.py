"""The contestants, one program each: `python -m contestants.<name> <job as JSON>` prints a measurement."""
