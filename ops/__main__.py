"""`python -m ops` is `ragbus`, for a shell without it on PATH."""

from ops.main import app

if __name__ == "__main__":
    app(prog_name="ragbus")
