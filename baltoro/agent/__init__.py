"""The think-call-observe loop."""
