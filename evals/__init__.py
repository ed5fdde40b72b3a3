"""Is the answer good? `python -m evals FOLDER`; `evals/README.md` says what a folder holds."""
