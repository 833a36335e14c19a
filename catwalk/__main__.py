"""``python -m catwalk``, the command line where the console script is not on the path."""

from catwalk.cli.main import main

if __name__ == "__main__":
    main()
