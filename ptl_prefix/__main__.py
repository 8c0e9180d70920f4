"""`python -m ptl_prefix <verb>`: the same door as the command `ptl-prefix`."""

from ptl_prefix.commands.cli import main

if __name__ == "__main__":
    main()
