"""The commands of `ragbus`, one file each. Nothing heavy is imported before a command runs."""
