"""What a budget lets through, and what it costs, beside LiteLLM's."""
