"""`python -m ops`, for whoever has no `ragbus` on PATH."""

from ops.main import app

app(prog_name="ragbus")
