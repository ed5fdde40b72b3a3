"""A data lake for the laptop: a folder is the container, its changes become Azure storage events on a queue."""
