"""What a model can call, and the sandbox in which it runs."""
