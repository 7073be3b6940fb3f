"""The OpenAI-compatible server: models of the store behind HTTP, with the chat page.

Answers are made by one thread per model (scheduler.py); the event loop only parses, waits and writes.
"""
