"""One module for each driver: ``listen(module, recorder)`` puts the recorder in front of what sends statements.

Each wraps as few functions as there are ways to send, calls the original with what it was given, and returns what that
returns.
"""
