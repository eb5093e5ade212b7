"""`python -m emotion` is the command `emotion`."""

from emotion.cli import main

main()
