"""What the command line says when something cannot be done."""


class CommandError(Exception):
    """One clear sentence for a person, with the fix; the command ends with status 2."""
