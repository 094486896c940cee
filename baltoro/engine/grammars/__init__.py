"""Keeps replies in form: which tokens may come, and how a call ends before its tokens run out."""
