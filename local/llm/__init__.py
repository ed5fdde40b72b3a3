"""A language model for the laptop: OpenAI's and Azure OpenAI's wire, answers quoted from the prompt's passages."""
