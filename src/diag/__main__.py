"""`python -m diag`: the same as the `diag` command."""

from diag.views.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
