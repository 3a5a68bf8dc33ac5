"""`python -m vramplan` is the command."""

from vramplan.cli.app import main

if __name__ == "__main__":
    main()
