"""What at least two workers need in the same form. Imports point down; `make check` enforces the layers."""
