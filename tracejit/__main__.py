"""`python -m tracejit` is the command `tracejit`."""

from tracejit.cli import main

if __name__ == "__main__":
    main()
