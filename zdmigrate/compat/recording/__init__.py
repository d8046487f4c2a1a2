"""The recorder: it runs inside the application, and writes down what the drivers send.

`zdmigrate record -- COMMAND` sets ``ZDMIGRATE_RECORD`` and puts `site/` in front of ``PYTHONPATH``, so that every Python
process of the command starts with `zdmigrate.compat.recording.hooks.install`. No driver is imported that the
application does not import; nothing outside the standard library is needed; no error gets out; what is new is written
at once, so that a process that is killed loses nothing.
"""
