"""`python -m services.generator`."""

from services.generator.main import main

main()
