"""What `zdmigrate.pytest_plugin` does once an option asks for it. Imported then, and not before.

PYTEST_DONT_REWRITE
"""
