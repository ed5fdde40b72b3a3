"""`python -m ops`, for whoever has no `ragbus` on PATH."""

from ops.main import app

if __name__ == "__main__":
    app(prog_name="ragbus")
