"""From the bytes of a file to a document: readers for each format, run in a process with limits."""
