"""`python -m services.indexer`."""

from services.indexer.main import main

main()
