"""Who may see what. Deny by default; the one place where tenant and group filters are made."""
