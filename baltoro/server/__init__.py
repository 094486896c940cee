"""The OpenAI-compatible HTTP server with a separate reasoning stream."""
