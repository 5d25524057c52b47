"""``python -m fisherscope``."""

from fisherscope.cli import main

main()
