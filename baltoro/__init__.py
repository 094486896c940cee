"""Train, serve and drive K2-architecture thinking agents."""
