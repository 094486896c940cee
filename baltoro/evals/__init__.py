"""Runs tasks with any ChatModel and reports with confidence intervals."""
