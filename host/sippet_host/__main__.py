"""``python -m sippet_host``."""

from .cli import main

main()
