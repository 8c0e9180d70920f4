"""`python -m ptl_prefix <verb>` is the same as the command `ptl-prefix`."""

from ptl_prefix.commands.main import main

if __name__ == "__main__":
    main()
