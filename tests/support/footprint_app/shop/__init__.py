"""A small application that talks to its database in every way that is recorded. It is a command of the tests."""
