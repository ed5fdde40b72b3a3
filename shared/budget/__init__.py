"""What may be spent: tokens per minute and tenant, reserved before a call and corrected after it."""
