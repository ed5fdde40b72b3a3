"""What may be spent: reserved before a call, corrected after it, in tokens and in money."""
