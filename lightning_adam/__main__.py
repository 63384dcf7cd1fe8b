"""``python -m lightning_adam`` is the command ``lightning-adam``."""

from lightning_adam.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
