"""What at least two workers say the same way. Imports point down; `make check` holds the floors."""
