"""Entry point of ``python -m conformance``, which is ``conform``, from a checkout too."""

from conformance.cli import main

if __name__ == "__main__":
    main()
